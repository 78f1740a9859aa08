"""A Hypothesis strategy of corrupted adapters, which atheris uses too."""

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from loramux_adapters.intake.content import CONFIG_FILE, WEIGHTS_FILE
from tests.helpers.adapter_files import PEFT_CONFIGS, as_bfloat16, lora_config, lora_tensors, split_weights
from tests.helpers.llama_bases import LlamaSizes, llama_base

SMALL_SIZES = LlamaSizes(
    hidden_size=2, intermediate_size=2, num_attention_heads=1, num_key_value_heads=1, head_dim=2, num_hidden_layers=2
)
SMALL = llama_base(SMALL_SIZES)
"""A base whose adapters are a few hundred bytes."""

_TENSORS = lora_tensors(("q_proj", "v_proj"), (0, 1), rank=1, sizes=SMALL_SIZES)
_CONFIGS = [
    *(config | {"r": 1} for config in PEFT_CONFIGS.values()),
    lora_config(r=1, target_modules=".*(q|v)_proj"),
    lora_config(r=2, rank_pattern={"q_proj": 1, "0.self_attn.v_proj": 1, "v_proj": 1}, alpha_pattern={"v_proj": 2}),
    lora_config(r=1, use_rslora=True, lora_alpha=0.5),
]
_KEYS = sorted(lora_config())
_NAMES = sorted(_TENSORS)

Files = tuple[bytes, bytes]
"""adapter_config.json and adapter_model.safetensors."""

_edges = st.sampled_from([-(2**63), 2**31, 2**32, 2**53 + 1, 2**63, 2**64, 10**400, 10**4000, 1e300, 1e400, -0.0])
_numbers = st.integers(-1, 40) | _edges | st.floats()
_words = st.sampled_from(
    ["F32", "F16", "BF16", "I8", "none", "all", "LORA", "all-linear", "q_proj", "v_proj", ".*", "(.*)*$"]
)
_texts = _words | st.sampled_from(_NAMES) | st.text(max_size=20)
_scalars = st.none() | st.booleans() | _numbers | _texts
_json = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts | st.sampled_from(_KEYS), inner, max_size=4),
    max_leaves=8,
)
_fields = st.sampled_from(["dtype", "shape", "data_offsets", "strides"])
_values = st.lists(st.integers(0, 32), min_size=2, max_size=2) | _json
_cuts = st.none() | st.tuples(st.integers(0, 4096), st.integers(0, 64), st.binary(max_size=64))
_no_cuts = st.just((None, None, None))


@st.composite
def corrupted_adapters(draw: st.DrawFn) -> Files:
    """Draw a valid adapter of SMALL, and change nothing or anything in it."""
    config = draw(st.sampled_from(_CONFIGS)) | draw(st.dictionaries(st.sampled_from(_KEYS) | _texts, _json, max_size=2))
    header, data = draw(st.sampled_from([split_weights(_TENSORS), as_bfloat16(_TENSORS)]))
    # Mostly cut none of the files: later checks would never be reached otherwise.
    cuts = draw(_no_cuts | st.tuples(_cuts, _cuts, _cuts))
    text = _cut(json.dumps(_changed(draw, header)).encode(), cuts[0])
    size = len(text) if cuts[0] is None else draw(st.just(len(text)) | st.integers(0, 2**64 - 1))
    return _cut(json.dumps(config).encode(), cuts[1]), size.to_bytes(8, "little") + text + _cut(data, cuts[2])


def write_files(folder: Path, files: Files) -> Path:
    """Write both files to `folder`, and return it."""
    for name, content in zip((CONFIG_FILE, WEIGHTS_FILE), files, strict=True):
        (folder / name).write_bytes(content)
    return folder


def _changed(draw: st.DrawFn, header: dict[str, Any]) -> dict[str, Any]:
    """Change fields, rename and drop entries of the header, and add others."""
    changed = {name: dict(entry) for name, entry in header.items()}
    for name, field, value in draw(st.lists(st.tuples(st.sampled_from(_NAMES), _fields, _values), max_size=2)):
        changed[name][field] = value
    for old, new in draw(st.dictionaries(st.sampled_from(_NAMES), st.none() | _texts, max_size=2)).items():
        entry = changed.pop(old, None)
        if new is not None and entry is not None:
            changed[new] = entry
    return changed | draw(st.dictionaries(_texts | st.just("__metadata__"), _json, max_size=1))


def _cut(content: bytes, cut: tuple[int, int, bytes] | None) -> bytes:
    """Replace a piece of the content by another one."""
    if cut is None:
        return content
    start, length, piece = cut
    return content[:start] + piece + content[start + length :]
