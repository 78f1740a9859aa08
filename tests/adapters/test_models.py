import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_adapters.errors import AdapterError, InvalidAdapterName, InvalidVersion
from loramux_adapters.intake.validation import validate
from loramux_adapters.models import BaseSpec, Manifest, VersionId, parse_adapter_name, parse_digest
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


def test_manifests_match_the_base_of_the_same_name_and_sizes() -> None:
    old, spec = BASE.spec, BASE.spec.model_copy(update={"modules_digest": "0" * 64})
    assert old.matches(spec)
    assert spec.matches(old)
    assert spec.matches(spec.model_copy(update={"modules_digest": "1" * 64}))  # of another machine or library
    assert not old.matches(spec.model_copy(update={"vocab_size": 65}))
    assert not old.matches(spec.model_copy(update={"name": "another"}))


def test_the_base_in_an_old_manifest_is_still_read() -> None:
    old = BASE.spec.model_dump() | {"intermediate_size": 24, "num_attention_heads": 4, "head_dim": 4}
    assert BaseSpec.model_validate_json(json.dumps(old)) == BASE.spec


def test_a_manifest_survives_json(tmp_path: Path) -> None:
    manifest = validate(write_adapter(tmp_path), BASE, max_rank=8)
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest
    assert Manifest.model_validate(manifest.model_dump(mode="json")) == manifest


def test_every_refusal_is_an_adapter_error_with_a_message() -> None:
    with pytest.raises(AdapterError) as caught:
        parse_adapter_name("no name")
    assert caught.value.message
