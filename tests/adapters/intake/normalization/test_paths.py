"""Names of modules are found by the base's own paths, or not at all."""

import time

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.normalization.paths import NEUTRAL, Paths

TEXT = [f"model.layers.{layer}.self_attn.{name}_proj" for layer in (0, 1) for name in "qk"] + ["lm_head"]
MULTIMODAL = [
    "model.language_model.layers.0.self_attn.q_proj",
    "model.language_model.layers.0.mlp.down_proj",
    "model.vision_tower.layers.0.self_attn.q_proj",
    "lm_head",
]
Q = MULTIMODAL[0]


def find(paths: list[str], name: str, preferred: list[str] | None = None) -> str | None:
    return Paths(paths, preferred).find(name.split("."), name)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.1.self_attn.q_proj",
        "base_model.model.model.layers.1.self_attn.q_proj",
        "base_model.model.layers.1.self_attn.q_proj",
        "layers.1.self_attn.q_proj",
        "language_model.model.layers.1.self_attn.q_proj",
        "model.language_model.layers.1.self_attn.q_proj",
        "base_model.model.model.language_model.layers.1.self_attn.q_proj",
        "module.base_model.model.model.layers.1.self_attn.q_proj",
        "_orig_mod.base_model.model.model.layers.1.self_attn.q_proj",
        "base_model.model._orig_mod.model.layers.1.self_attn.q_proj",
        "_fsdp_wrapped_module.base_model.model.model.layers.1._fsdp_wrapped_module.self_attn.q_proj",
        "model.layers.1._checkpoint_wrapped_module.self_attn.q_proj",
    ],
)
def test_the_prefixes_of_tools_are_dropped(name: str) -> None:
    """A12: names without prefix, `_orig_mod.`, `language_model.`"""
    assert find(TEXT, name) == "model.layers.1.self_attn.q_proj"


@pytest.mark.parametrize("name", ["lm_head", "base_model.model.lm_head", "language_model.lm_head"])
def test_a_module_outside_the_layers_is_found(name: str) -> None:
    assert find(TEXT, name) == "lm_head"


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj",
        "base_model.model.model.layers.0.self_attn.q_proj",
        "language_model.model.layers.0.self_attn.q_proj",
        "layers.0.self_attn.q_proj",
    ],
)
def test_a_text_only_adapter_is_found_in_the_text_part_of_a_multimodal_base(name: str) -> None:
    """A12: `language_model.`"""
    assert find(MULTIMODAL, name) == Q
    assert find(MULTIMODAL, name, preferred=[Q]) == Q


@pytest.mark.parametrize(
    "name",
    [
        "vision_tower.layers.0.self_attn.q_proj",
        "model.visual.layers.0.self_attn.q_proj",
        "mtp.layers.0.self_attn.q_proj",
        "encoder.model.layers.0.self_attn.q_proj",
        "model.layers.2.self_attn.q_proj",
        "model.layers.0.cross_attn.q_proj",
        "model.layers.0.self_attn.q_proj.extra",
        "model.layers.self_attn.q_proj",
        "model.layers.01.self_attn.q_proj",
        "",
        ".",
        "model",
        "_orig_mod",
    ],
)
def test_a_module_that_the_base_does_not_have_is_never_taken_for_another(name: str) -> None:
    assert find(TEXT, name) is None


def test_a_part_of_a_multimodal_base_is_not_taken_for_its_text_part() -> None:
    assert find(MULTIMODAL, "vision_tower.layers.0.self_attn.q_proj") == MULTIMODAL[2]
    assert find(MULTIMODAL, "audio_tower.layers.0.self_attn.q_proj") is None


@pytest.mark.parametrize("name", ["q_proj", "self_attn.q_proj", "1.self_attn.q_proj"])
def test_a_number_is_never_added_to_a_name(name: str) -> None:
    assert find(TEXT[:1], name) is None


def test_a_name_that_is_short_for_several_modules_is_refused_with_both() -> None:
    paths = ["a.layers.0.q", "b.layers.0.q"]
    with pytest.raises(InvalidAdapter, match=r"layers\.0\.q: .*expected a\.layers\.0\.q or b\.layers\.0\.q"):
        find(paths, "layers.0.q")
    assert find(paths, "layers.0.q", preferred=["b.layers.0.q"]) == "b.layers.0.q"


def test_a_private_part_that_the_base_has_is_kept() -> None:
    assert find(["model._layer.q"], "model._layer.q") == "model._layer.q"
    assert find(["model._layer.q"], "_orig_mod.model._layer.q") == "model._layer.q"


@pytest.mark.parametrize("part", ["model", "_orig_mod", "x", "0", ""])
def test_a_name_of_very_many_parts_takes_no_time(part: str) -> None:
    started = time.process_time()
    find(TEXT, ".".join([part] * 200_000 + ["q_proj"]))
    assert time.process_time() - started < 1


words = st.sampled_from(["model", "layers", "h", "attn", "q_proj", "mlp", "0", "1", "12", "vision", "language_model"])
names = st.lists(words, min_size=1, max_size=6)
bases = st.lists(names.map(".".join), min_size=1, max_size=12, unique=True)
private = st.sampled_from(["_orig_mod", "_fsdp_wrapped_module", "_", "__x"])


def outcome(paths: list[str], parts: list[str]) -> str | None:
    try:
        return Paths(paths).find(parts, ".".join(parts))
    except InvalidAdapter as error:
        return f"refused: {error.problem}"


@given(paths=bases, prefix=st.lists(st.sampled_from(sorted(NEUTRAL)), max_size=3), data=st.data())
def test_every_path_is_found_whatever_wrappers_are_in_its_name(
    paths: list[str], prefix: list[str], data: st.DataObject
) -> None:
    path = data.draw(st.sampled_from(paths))
    assert outcome(paths, path.split(".")) == path
    wrapped = [*path.split(".")]
    for _ in range(data.draw(st.integers(0, 3))):
        wrapped.insert(data.draw(st.integers(0, len(wrapped))), data.draw(private))
    assert outcome(paths, wrapped) == path
    assume(not any(other != path and other.endswith(f".{path}") for other in paths))
    assert outcome(paths, [*prefix, *wrapped]) == path


@given(paths=bases, parts=st.lists(words | private | st.text(max_size=5), min_size=1, max_size=8))
def test_what_is_found_has_the_same_end_and_the_same_numbers(paths: list[str], parts: list[str]) -> None:
    found = outcome(paths, parts)
    if found is not None and not found.startswith("refused"):
        kept = [part for part in parts if not part.startswith("_")]
        assert found in paths
        assert found.split(".")[-1] == kept[-1]
        assert [part for part in found.split(".") if part.isdigit()] == [part for part in kept if part.isdigit()]
        assert all(part in NEUTRAL for part in kept[: -len(found.split("."))])
