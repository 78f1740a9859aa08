"""Ranks and alphas of single modules, looked up by name.

vLLM evaluates each key of rank_pattern and alpha_pattern as a regular expression, and the library `regex` caches 500
compiled ones: with more keys, every module compiles all of them again. The stored configs have names only, see
`intake.validation.canonical`.
"""

from collections.abc import Mapping
from typing import Any

from vllm.lora.peft_helper import PEFTHelper

from loramux_adapters.intake.validation.expressions import ends


def match_pattern(pattern: Mapping[str, Any], name: str) -> Any:
    """Return the value of the first key that is `name` or its end after a dot, None if there is none."""
    found = {end for end in ends(name) if end in pattern}
    first = next((key for key in pattern if key in found), None) if len(found) > 1 else next(iter(found), None)
    return None if first is None else pattern[first]


def install_pattern_lookup() -> None:
    """Make vLLM look the keys up."""
    PEFTHelper._match_pattern = staticmethod(match_pattern)
