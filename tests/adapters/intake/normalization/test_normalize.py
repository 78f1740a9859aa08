"""Adapters in the forms of other tools become the files that PEFT would have written, byte for byte."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import CONFIG_FILE, INDEX_FILE, WEIGHTS_FILE, content_digest, hash_files
from loramux_adapters.intake.normalization import normalize
from loramux_adapters.intake.validation import validate
from tests.helpers.adapter_files import BASE, Tensors, lora_config, lora_tensors, write_adapter, write_raw

PREFIX = "base_model.model."
TENSORS = lora_tensors()
FIRST = next(iter(TENSORS))
HEADER_OF_ONE = {"name": {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}}


def save(folder: Path, tensors: Tensors, config: Mapping[str, Any] | None = None) -> Path:
    """Write an adapter as PEFT does."""
    write_adapter(folder, dict(config) if config else None)
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    return folder


@pytest.fixture
def as_by_peft(tmp_path: Path) -> dict[str, bytes]:
    """The files that PEFT would have written."""
    folder = save(tmp_path / "peft", TENSORS)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def renamed(change: Callable[[str], str]) -> Tensors:
    return {change(name): tensor for name, tensor in TENSORS.items()}


FORMS: dict[str, Callable[[str], str]] = {
    "no prefix": lambda name: name.removeprefix(PREFIX),
    "PEFT on the inner model": lambda name: name.replace("base_model.model.model.", "base_model.model."),
    "the adapter's name": lambda name: name.replace(".weight", ".default.weight"),
    "torch.compile": lambda name: f"_orig_mod.{name}",
    "torch.compile of layers": lambda name: name.replace(".self_attn", "._orig_mod.self_attn"),
    "FSDP": lambda name: f"_fsdp_wrapped_module.{name.replace('.self_attn', '._fsdp_wrapped_module.self_attn')}",
    "FSDP and checkpointing": lambda name: name.replace(
        ".self", "._fsdp_wrapped_module._checkpoint_wrapped_module.self"
    ),
    "DDP": lambda name: f"module.{name}",
    "a multimodal base's text part": lambda name: name.replace(f"{PREFIX}model.", f"{PREFIX}language_model.model."),
    "a newer multimodal base's text part": lambda name: name.replace(
        f"{PREFIX}model.", f"{PREFIX}model.language_model."
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_tensors_in_the_form_of_a_tool_become_peft_s_file(
    tmp_path: Path, as_by_peft: dict[str, bytes], form: str
) -> None:
    """A12: names without prefix, `.default.`, `_orig_mod.`, `language_model.`"""
    folder = save(tmp_path / "form", renamed(FORMS[form]))
    [note, *_] = normalize(folder, BASE, None)
    assert note.startswith(f"{len(TENSORS)} tensors were renamed as PEFT names them on this base, such as ")
    assert files(folder)[WEIGHTS_FILE] == as_by_peft[WEIGHTS_FILE]
    if "multimodal" not in form and "inner" not in form:
        assert files(folder) == as_by_peft
    assert validate(folder, BASE, max_rank=8).layers == (0, 1, 2)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_canonical_files_keep_their_bytes_whoever_wrote_them(tmp_path: Path, dtype: str) -> None:
    folder = write_adapter(tmp_path, tensors=lora_tensors(dtype=dtype))  # without the metadata of PEFT
    before, digest = files(folder), content_digest(hash_files(folder))
    assert normalize(folder, BASE, None) == []
    assert files(folder) == before
    assert validate(folder, BASE, max_rank=8).digest == digest


def shard(folder: Path, tensors: Tensors, count: int = 2) -> dict[str, str]:
    """Replace the weights by `count` files and an index, and return the file of each tensor."""
    (folder / WEIGHTS_FILE).unlink()
    weight_map = {name: f"adapter_model-{at % count:05}-of-{count:05}.safetensors" for at, name in enumerate(tensors)}
    for file in set(weight_map.values()):
        save_file({name: tensors[name] for name in tensors if weight_map[name] == file}, folder / file)
    write_index(folder, weight_map)
    return weight_map


def write_index(folder: Path, weight_map: object) -> None:
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


@pytest.mark.parametrize("count", [1, 2, 12])
def test_weights_in_several_files_become_peft_s_one(tmp_path: Path, as_by_peft: dict[str, bytes], count: int) -> None:
    """A12: sharded weights."""
    folder = write_adapter(tmp_path / "form")
    shard(folder, TENSORS, count)
    notes = normalize(folder, BASE, None)
    assert notes == ([f"The weights were in {count} files, and were joined into one."] if count > 1 else [])
    assert files(folder) == as_by_peft


@pytest.mark.parametrize("form", ["no prefix", "the adapter's name"])
def test_shards_are_renamed_as_well(tmp_path: Path, as_by_peft: dict[str, bytes], form: str) -> None:
    folder = write_adapter(tmp_path / "form")
    shard(folder, renamed(FORMS[form]))
    normalize(folder, BASE, None)
    assert files(folder) == as_by_peft


def refusal(folder: Path, base: BaseDescription = BASE, base_folder: Path | None = None) -> InvalidAdapter:
    before = files(folder)
    with pytest.raises(InvalidAdapter) as caught:
        normalize(folder, base, base_folder)
    assert files(folder) == before
    assert caught.value.message.isprintable()
    return caught.value


def test_a_tensor_in_two_files_is_refused_with_both(tmp_path: Path) -> None:
    """A12: sharded weights."""
    folder = write_adapter(tmp_path)
    a, b = sorted(set(shard(folder, TENSORS).values()))
    save_file(TENSORS, folder / b)
    error = refusal(folder)
    assert a in error.problem
    assert b in error.problem


@pytest.mark.parametrize("name", [FIRST, "another"])
def test_an_index_that_does_not_agree_with_its_files_is_refused(tmp_path: Path, name: str) -> None:
    """A12: sharded weights."""
    folder = write_adapter(tmp_path)
    weight_map = shard(folder, TENSORS)
    [other] = {file for file in weight_map.values() if file != weight_map[FIRST]}
    write_index(folder, {**weight_map, name: other})
    assert refusal(folder).where == name
    write_index(folder, {key: file for key, file in weight_map.items() if key != FIRST})
    assert refusal(folder).where == FIRST


@pytest.mark.parametrize(
    "weight_map",
    [
        None,
        {},
        [],
        "x",
        {"a": 5},
        {"a": None},
        {"a": "../secret.safetensors"},
        {"a": "/etc/passwd"},
        {"a": "a/b.safetensors"},
        {"a": "a\0.safetensors"},
        {"a": "a.safetensors\n"},
        {"a": ".safetensors"},
        {"a": "adapter_config.json"},
        {"a": WEIGHTS_FILE},
        {"a": f"{'x' * 300}.safetensors"},
        {"a": "\u202egnp.safetensors"},
        {str(at): f"{at}.safetensors" for at in range(300)},
    ],
)
def test_a_hostile_index_is_refused(tmp_path: Path, weight_map: object) -> None:
    """A12: sharded weights."""
    folder = write_adapter(tmp_path)
    (folder / WEIGHTS_FILE).unlink()
    write_index(folder, weight_map)
    assert refusal(folder).where == INDEX_FILE


def test_the_headers_of_all_shards_together_are_limited(tmp_path: Path) -> None:
    """A12: sharded weights; each header takes memory."""
    folder = write_adapter(tmp_path)
    raw = json.dumps(HEADER_OF_ONE).encode()
    padded = raw + b" " * (300_000 - len(raw))
    for shard in range(4):
        content = padded.replace(b"name", f"nam{shard}".encode())
        (folder / f"{shard}.safetensors").write_bytes(len(content).to_bytes(8, "little") + content + bytes(4))
    (folder / WEIGHTS_FILE).unlink()
    write_index(folder, {f"nam{shard}": f"{shard}.safetensors" for shard in range(4)})
    error = refusal(folder)
    assert (error.where, error.problem) == ("3.safetensors", "the header is truncated or too large")


def test_a_shard_that_is_a_link_is_not_read(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "form")
    (folder / WEIGHTS_FILE).rename(tmp_path / "elsewhere")
    (folder / "a.safetensors").symlink_to(tmp_path / "elsewhere")
    write_index(folder, {"a": "a.safetensors"})
    assert "symbolic link" in refusal(folder).problem


def test_two_adapters_in_one_file_are_refused(tmp_path: Path) -> None:
    twice = renamed(FORMS["the adapter's name"]) | renamed(lambda name: name.replace(".weight", ".other.weight"))
    assert "twice" in refusal(save(tmp_path, twice)).problem


def test_tensors_that_only_matter_during_training_are_left_out(tmp_path: Path, as_by_peft: dict[str, bytes]) -> None:
    """A8: VeLoRA saves a vector for each module."""
    names = [name.replace("lora_A.weight", "lora_velora_embed") for name in TENSORS if "lora_A" in name]
    folder = save(tmp_path / "velora", TENSORS | {name: np.ones(16, np.float32) for name in names})
    (note,) = normalize(folder, BASE, None)
    assert "only matter during training" in note
    assert files(folder) == as_by_peft


def test_an_empty_tensor_is_named_as_one_that_zero_3_did_not_gather(tmp_path: Path) -> None:
    """A13: ZeRO-3's empty tensors."""
    empty = {name: np.zeros((0,), np.float32) for name in TENSORS}
    assert "ZeRO-3" in refusal(save(tmp_path / "all", empty)).problem
    assert "ZeRO-3" in refusal(save(tmp_path / "one", TENSORS | {FIRST: np.zeros((0, 16), np.float32)})).problem


@pytest.mark.parametrize(
    "name", [f"{FIRST}\n", "x" * 100_000, "lm_head.weight", "\u202e", "", "lora_A.weight", "lora_A"]
)
def test_what_is_not_understood_stays_for_the_validation_to_refuse(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path, TENSORS | {name: np.ones((2, 2), np.float32)})
    before = files(folder)
    normalize(folder, BASE, None)
    assert files(folder) == before
    with pytest.raises(InvalidAdapter):
        validate(folder, BASE, max_rank=8)


@pytest.mark.parametrize("where", [CONFIG_FILE, WEIGHTS_FILE])
def test_half_of_a_character_is_refused(tmp_path: Path, where: str) -> None:
    header = {f"a\ud800.{FIRST}": {"dtype": "F32", "shape": [4, 16], "data_offsets": [0, 256]}}
    folder = write_raw(tmp_path, json.dumps(header).encode(), bytes(256))
    if where == CONFIG_FILE:
        write_adapter(tmp_path, lora_config(r=4.0, note="\ud800"))
    error = refusal(folder)
    assert (error.where, error.problem[:14]) == (where, "not valid JSON")


def test_names_of_a_file_with_unknown_tensors_are_changed_where_they_are_understood(tmp_path: Path) -> None:
    folder = save(tmp_path, renamed(FORMS["no prefix"]) | {"extra": np.ones((2, 2), np.float32)})
    normalize(folder, BASE, None)
    with pytest.raises(InvalidAdapter, match="extra"):
        validate(folder, BASE, max_rank=8)


def test_an_adapter_of_tinker_trains_the_head(tmp_path: Path) -> None:
    """A12: Tinker's names, and its all-linear that includes the head."""
    rng = np.random.default_rng(0)
    head = {"A": rng.standard_normal((4, 16)) / 10, "B": rng.standard_normal((64, 4)) / 10}
    named = {
        f"{PREFIX}model.unembed_tokens.lora_{part}.weight": value.astype(np.float32) for part, value in head.items()
    }
    folder = write_adapter(tmp_path, {"r": 4, "lora_alpha": 32, "target_modules": "all-linear"}, TENSORS | named)
    normalize(folder, BASE, None)
    written = load_file(folder / WEIGHTS_FILE)
    assert np.array_equal(
        written[f"{PREFIX}lm_head.lora_B.weight"], named[f"{PREFIX}model.unembed_tokens.lora_B.weight"]
    )
    manifest = validate(folder, BASE, max_rank=8)
    assert manifest.target_modules == ("lm_head", "q_proj", "v_proj")


def test_patterns_of_modules_with_other_names_follow_them(tmp_path: Path) -> None:
    """A3 and A12: full names of the model that was trained, in rank_pattern and alpha_pattern."""
    source = "language_model.model.layers.1.self_attn.q_proj"
    tensors = lora_tensors() | lora_tensors(("q_proj",), (1,), rank=2)
    change = FORMS["a multimodal base's text part"]
    config = lora_config(rank_pattern={source: 2}, alpha_pattern={source: 64}, target_modules=r".*\.[qv]_proj")
    folder = save(tmp_path, {change(name): tensor for name, tensor in tensors.items()}, config)
    normalize(folder, BASE, None)
    written = json.loads((folder / CONFIG_FILE).read_text())
    assert written["rank_pattern"] == {"model.layers.1.self_attn.q_proj": 2}
    assert written["alpha_pattern"] == {"model.layers.1.self_attn.q_proj": 64}
    validate(folder, BASE, max_rank=8)


def multimodal(base: BaseDescription, *, is_tower_served: bool) -> BaseDescription:
    """Return a base whose text part is `base`, with a vision tower of the same names."""
    text = {f"model.language_model.{path.removeprefix('model.')}": module for path, module in base.modules.items()}
    text["lm_head"] = text.pop("model.language_model.lm_head")
    refusal = None if is_tower_served else "vLLM does not apply adapters to a vision tower"
    tower = {
        path.replace("language_model", "vision_tower"): module.model_copy(update={"refusal": refusal})
        for path, module in text.items()
        if ".layers." in path
    }
    return BaseDescription.of(text | tower, spec=base.spec, parameters=base.parameters)


@pytest.mark.parametrize("is_tower_served", [False, True])
@pytest.mark.parametrize(
    "targets", [["q_proj", "v_proj"], r".*\.(q|v)_proj", r"model\.layers\.\d+\.self_attn\.[qv]_proj"]
)
def test_a_text_adapter_is_served_by_the_multimodal_base(
    tmp_path: Path, targets: list[str] | str, is_tower_served: bool
) -> None:
    """A12: `language_model.`, with a vision tower whose modules have the same last names."""
    base = multimodal(BASE, is_tower_served=is_tower_served)
    config = lora_config(target_modules=targets, rank_pattern={"model.layers.1.self_attn.q_proj": 2})
    folder = save(tmp_path, lora_tensors() | lora_tensors(("q_proj",), (1,), rank=2), config)
    normalize(folder, base, None)
    manifest = validate(folder, base, max_rank=8)
    assert manifest.parameters == sum(tensor.size for tensor in lora_tensors().values()) - 2 * (16 + 16)
    assert all(".language_model.layers." in name for name in load_file(folder / WEIGHTS_FILE))
    written = json.loads((folder / CONFIG_FILE).read_text())
    assert written["rank_pattern"] == {"model.language_model.layers.1.self_attn.q_proj": 2}


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], r"model\.layers\.\d\..*[qv]_proj"])
def test_a_text_adapter_without_a_layer_is_refused_by_the_multimodal_base(
    tmp_path: Path, targets: list[str] | str
) -> None:
    folder = save(tmp_path, lora_tensors(layers=(0, 2)), lora_config(target_modules=targets))
    base = multimodal(BASE, is_tower_served=True)
    normalize(folder, base, None)
    with pytest.raises(InvalidAdapter, match=r"language_model\.layers\.1\.self_attn\.q_proj.*the tensor is missing"):
        validate(folder, base, max_rank=8)


def test_an_adapter_of_both_parts_of_an_older_class_is_served_by_the_newer_one(tmp_path: Path) -> None:
    """A12: transformers moved the parts of its multimodal classes."""
    base = multimodal(BASE, is_tower_served=True)
    text = {name.replace(f"{PREFIX}model.", f"{PREFIX}language_model.model."): t for name, t in TENSORS.items()}
    tower = {name.replace(f"{PREFIX}model.", f"{PREFIX}vision_tower."): t for name, t in TENSORS.items()}
    folder = save(tmp_path, text | tower, lora_config(target_modules=["q_proj", "v_proj"]))
    normalize(folder, base, None)
    assert validate(folder, base, max_rank=8).parameters == 2 * sum(tensor.size for tensor in TENSORS.values())
