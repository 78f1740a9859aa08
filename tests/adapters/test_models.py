import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_adapters.errors import AdapterError, InvalidAdapterName, InvalidVersion, UnsupportedBase
from loramux_adapters.intake.validation import validate
from loramux_adapters.models import LINEAR_MODULES, BaseSpec, Manifest, VersionId, parse_adapter_name, parse_digest
from tests.helpers.adapter_files import BASE, write_adapter

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
}


@pytest.mark.parametrize("text", ["a", "Support-Tone_2.1", "ft:Org/Model-7B:acme:tone:ab12", "0", "x" * 128])
def test_a_name_of_safe_characters_is_kept_as_it_is(text: str) -> None:
    assert parse_adapter_name(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x" * 129,
        "a@b",
        "../a",
        "a/../b",
        "a//b",
        "/a",
        "a/",
        ".a",
        "a/.b",
        "-a",
        "a b",
        "a\n",
        "a\0",
        "é",
        "a\\b",
        "a%2f",
    ],
)
def test_a_name_that_could_be_a_path_or_misleading_is_refused(text: str) -> None:
    with pytest.raises(InvalidAdapterName):
        parse_adapter_name(text)


@given(st.text())
def test_any_text_is_a_valid_name_or_refused(text: str) -> None:
    try:
        name = parse_adapter_name(text)
    except InvalidAdapterName:
        return
    assert name.isascii()
    assert name.isprintable()
    assert not {"", ".", ".."} & set(name.split("/"))


@given(
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,60}", fullmatch=True),
    st.text("0123456789abcdef", min_size=12, max_size=12),
)
def test_a_version_reads_back_as_it_was_written(name: str, digest: str) -> None:
    version = VersionId(parse_adapter_name(name), parse_digest(digest))
    assert VersionId.parse(str(version)) == version


@pytest.mark.parametrize(
    "text", ["a", "a@", "a@0123456789a", "a@0123456789abc", "a@0123456789AB", "a@0123456789ab\n", "@0123456789ab"]
)
def test_text_other_than_name_at_digest_is_refused(text: str) -> None:
    with pytest.raises((InvalidVersion, InvalidAdapterName)):
        VersionId.parse(text)


def test_the_shapes_of_a_llama_follow_from_its_config() -> None:
    base = BaseSpec.from_config(LLAMA, "llama")
    shapes = {module: base.module_shape(module) for module in LINEAR_MODULES}
    assert shapes == {
        "q_proj": (576, 576),
        "k_proj": (576, 192),
        "v_proj": (576, 192),
        "o_proj": (576, 576),
        "gate_proj": (576, 1536),
        "up_proj": (576, 1536),
        "down_proj": (1536, 576),
    }


def test_heads_wider_than_the_hidden_size_give_the_attention_its_shapes() -> None:
    base = BaseSpec.from_config(LLAMA | {"architectures": ["Qwen3ForCausalLM"], "head_dim": 128}, "qwen")
    assert base.module_shape("q_proj") == (576, 9 * 128)
    assert base.module_shape("o_proj") == (9 * 128, 576)


def test_sizes_that_are_null_or_left_out_are_derived() -> None:
    config: dict[str, Any] = LLAMA | {"head_dim": None}
    del config["num_key_value_heads"]
    base = BaseSpec.from_config(config, "old")
    assert (base.head_dim, base.num_key_value_heads) == (64, 9)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (LLAMA | {"architectures": ["MambaForCausalLM"]}, "MambaForCausalLM"),
        (LLAMA | {"architectures": []}, "None"),
        (LLAMA | {"hidden_size": "576"}, "hidden_size"),
        (LLAMA | {"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"architectures": ["LlamaForCausalLM"]}, "vocab_size"),
        ([], "None"),
    ],
)
def test_a_base_whose_shapes_are_unknown_is_refused_by_name(config: object, named: str) -> None:
    with pytest.raises(UnsupportedBase, match=named):
        BaseSpec.from_config(config, "base")


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\xff\xfe\x00", b"null"])
def test_a_broken_config_of_the_base_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UnsupportedBase):
        BaseSpec.from_folder(tmp_path, "base")


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedBase, match="FileNotFoundError"):
        BaseSpec.from_folder(tmp_path, "base")


def test_a_base_is_read_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    assert BaseSpec.from_folder(tmp_path, "llama") == BaseSpec.from_config(LLAMA, "llama")


def test_a_manifest_survives_json(tmp_path: Path) -> None:
    manifest = validate(write_adapter(tmp_path), BASE, max_rank=8)
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest
    assert Manifest.model_validate(manifest.model_dump(mode="json")) == manifest


def test_every_refusal_is_an_adapter_error_with_a_message() -> None:
    with pytest.raises(AdapterError) as caught:
        parse_adapter_name("no name")
    assert caught.value.message
