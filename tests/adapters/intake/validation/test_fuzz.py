"""Any files are accepted or refused: no other error, no hang, and nothing that other parsers read differently."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import CONFIG_FILE, WEIGHTS_FILE
from loramux_adapters.intake.validation import validate
from loramux_adapters.intake.validation.canonical import canonical_config
from loramux_adapters.intake.validation.config import READ_KEYS, parse_config, refuse_expressions
from tests.helpers.adapter_corruption import SMALL, Files, corrupted_adapters, write_files
from tests.helpers.adapter_files import BASE, lora_config, lora_tensors, split_weights, write_adapter, write_raw
from tests.helpers.validation_oracle import accepted

HEADER, DATA = split_weights(lora_tensors())
NAMES = list(HEADER)
SHARED_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)

CONFIG_WORDS = st.sampled_from(
    [
        "q_proj",
        "^model",
        "(q|v)_proj",
        ".*",
        "layers",
        "(",
        "all-linear",
        "c_attn",
        "0.self_attn.q_proj",
        "self.attn.q_proj",
    ]
)


@SHARED_FOLDER
@given(files=corrupted_adapters())
def test_a_corrupted_adapter_is_accepted_or_refused_safely(tmp_path: Path, files: Files) -> None:
    accepted(write_files(tmp_path, files), SMALL)


@pytest.mark.slow
@settings(SHARED_FOLDER, max_examples=1000)
@given(files=corrupted_adapters())
def test_the_same_holds_for_many_more_corrupted_adapters(tmp_path: Path, files: Files) -> None:
    accepted(write_files(tmp_path, files), SMALL)


@SHARED_FOLDER
@given(raw=st.binary(max_size=200))
def test_any_bytes_as_weights_are_refused(tmp_path: Path, raw: bytes) -> None:
    write_adapter(tmp_path)
    (tmp_path / WEIGHTS_FILE).write_bytes(raw)
    assert not accepted(tmp_path)


@SHARED_FOLDER
@given(raw=st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_as_header_are_refused(tmp_path: Path, raw: bytes) -> None:
    assert not accepted(write_raw(tmp_path, raw, DATA))


@SHARED_FOLDER
@given(raw=st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_as_config_are_refused(tmp_path: Path, raw: bytes) -> None:
    write_adapter(tmp_path)
    (tmp_path / CONFIG_FILE).write_bytes(raw)
    assert not accepted(tmp_path)


@SHARED_FOLDER
@given(key=st.sampled_from(sorted(lora_config())) | st.text(max_size=20), value=json_values)
def test_any_value_of_a_key_is_accepted_or_refused(tmp_path: Path, key: str, value: Any) -> None:
    accepted(write_adapter(tmp_path, lora_config(**{key: value})))


@given(
    changes=st.dictionaries(st.sampled_from(sorted(READ_KEYS)), json_values | CONFIG_WORDS, max_size=3),
    pattern=st.dictionaries(CONFIG_WORDS | st.text(max_size=8), st.integers(1, 8) | st.just(2.0), max_size=4),
)
def test_any_config_has_a_form_without_expressions_or_is_refused(
    changes: dict[str, Any], pattern: dict[str, float]
) -> None:
    try:
        stored, notes = canonical_config(lora_config(**{"rank_pattern": pattern, **changes}), BASE)
    except InvalidAdapter as error:
        assert error.message.isprintable()
        return
    refuse_expressions(parse_config(stored))
    assert canonical_config(stored, BASE) == (stored, [])
    assert all(note.isprintable() and len(note) < 1000 for note in notes)


@SHARED_FOLDER
@given(
    name=st.sampled_from(NAMES),
    key=st.sampled_from(["dtype", "shape", "data_offsets", "extra"]),
    value=json_values | st.lists(st.integers(-1, 4096), max_size=3) | st.sampled_from(["F16", "BF16", "F32", "I32"]),
)
def test_any_value_of_a_tensor_s_entry_is_accepted_or_refused(tmp_path: Path, name: str, key: str, value: Any) -> None:
    header = HEADER | {name: HEADER[name] | {key: value}}
    accepted(write_raw(tmp_path, json.dumps(header).encode(), DATA))


def changed(name: str, **changes: Any) -> bytes:
    return json.dumps(HEADER | {name: HEADER[name] | changes}).encode()


def moved(name: str, by: int) -> bytes:
    return changed(name, data_offsets=[offset + by for offset in HEADER[name]["data_offsets"]])


VALID_HEADER = json.dumps(HEADER).encode()


def test_the_header_of_the_safetensors_library_is_accepted(tmp_path: Path) -> None:
    assert accepted(write_raw(tmp_path, VALID_HEADER, DATA))


def test_a_header_may_name_the_tensors_in_any_order(tmp_path: Path) -> None:
    assert accepted(write_raw(tmp_path, json.dumps(dict(reversed(HEADER.items()))).encode(), DATA))


@pytest.mark.parametrize(
    ("header", "data", "header_size"),
    [
        (VALID_HEADER, DATA[:-1], None),
        (VALID_HEADER, DATA + b"\0", None),
        (VALID_HEADER, b"", None),
        (b"", b"", None),
        (b"", b"", 2**64 - 1),
        (VALID_HEADER, DATA, 2**63),
        (VALID_HEADER, DATA, len(VALID_HEADER) + len(DATA) + 1),
        (VALID_HEADER + b" " * (1 << 20), DATA, None),
        (moved(NAMES[0], 4), DATA, None),
        (changed(NAMES[0], dtype="F16"), bytes(len(DATA)), None),
        (changed(NAMES[0], shape=[float(size) for size in HEADER[NAMES[0]]["shape"]]), DATA, None),
        (changed(NAMES[0], strides=[1, 1]), DATA, None),
        (moved(NAMES[-1], -4), DATA, None),
        (moved(NAMES[-1], 1 << 62), DATA, None),
        (VALID_HEADER[:-1] + b"," + json.dumps({NAMES[0]: HEADER[NAMES[0]]}).encode()[1:], DATA, None),
        (json.dumps(HEADER | {"__metadata__": {"a": 1}}).encode(), DATA, None),
        (json.dumps(HEADER | {"__metadata__": []}).encode(), DATA, None),
        (b'{"a":' * 100_000, DATA, None),
        (b'{"a":' + b"9" * 5000 + b"}", DATA, None),
        (b'{"a":NaN}', DATA, None),
        (VALID_HEADER.decode().encode("utf-16"), DATA, None),
        (b"\xef\xbb\xbf" + VALID_HEADER, DATA, None),
    ],
)
def test_an_inconsistent_header_is_refused(tmp_path: Path, header: bytes, data: bytes, header_size: int | None) -> None:
    assert not accepted(write_raw(tmp_path, header, data, header_size))


def test_a_truncated_header_is_refused_with_the_file_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidAdapter, match=f"^{WEIGHTS_FILE}: the header is truncated"):
        validate(write_raw(tmp_path, VALID_HEADER[:50], header_size=len(VALID_HEADER)), BASE, max_rank=8)


def test_a_duplicate_key_is_named(tmp_path: Path) -> None:
    write_adapter(tmp_path)
    (tmp_path / CONFIG_FILE).write_text(json.dumps(lora_config())[:-1] + ', "r": 8}')
    with pytest.raises(InvalidAdapter, match="duplicate key 'r'"):
        validate(tmp_path, BASE, max_rank=8)


def test_a_config_of_a_hundred_megabytes_is_refused_unread(tmp_path: Path) -> None:
    write_adapter(tmp_path)
    with (tmp_path / CONFIG_FILE).open("r+b") as file:
        file.truncate(100_000_000)
    with pytest.raises(InvalidAdapter, match="too large"):
        validate(tmp_path, BASE, max_rank=8)
