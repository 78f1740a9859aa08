"""Any config chooses the modules, ranks and alphas that PEFT's own functions choose for it."""

import re
from dataclasses import asdict
from typing import Any

import peft
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import _ExcludedModule, check_target_module_exists
from peft.utils.other import get_pattern_key
from transformers import LlamaConfig, LlamaForCausalLM

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.validation.canonical import canonical_config
from loramux_adapters.intake.validation.config import READ_KEYS, parse_config
from loramux_adapters.intake.validation.features import IGNORED, KNOWN_PEFT, LEFTOVERS, REFUSED
from loramux_adapters.intake.validation.selection import select
from tests.helpers.adapter_files import BASE, SIZES, lora_config

pytestmark = pytest.mark.slow

PATHS = [path for path in BASE.modules if "layers.2" not in path]
_parts = st.sampled_from(
    [
        "q_proj",
        "v_proj",
        "up_proj",
        "mlp",
        "self_attn",
        "layers",
        "model",
        "0",
        "1",
        "lm_head",
        "embed_tokens",
        "c_attn",
    ]
)
_ends = st.sampled_from(PATHS).flatmap(lambda path: st.sampled_from([path.split(".", n)[-1] for n in range(5)]))
_names = _ends | st.lists(_parts, min_size=1, max_size=3).map(".".join)
_pieces = st.sampled_from(
    [
        ".*",
        r"\.",
        ".",
        "(q|v)_proj",
        "_proj",
        "^model",
        "$",
        "layers",
        r"[01]",
        "q",
        "mlp",
        ".+?",
        "|",
        "(?:up|o)",
        r"\d+",
    ]
)
_expressions = st.lists(_pieces, min_size=1, max_size=5).map("".join) | _names | _names.map(lambda name: "^" + name)
_targets = st.lists(_names, max_size=4, unique=True) | _expressions.filter(lambda text: text.lower() != "all-linear")
_patterns = st.dictionaries(_expressions, st.integers(1, 8), max_size=4)
_layers = st.none() | st.integers(0, 3) | st.lists(st.integers(0, 3), max_size=3)
_lists = st.none() | st.sampled_from(["layers", "h", "lay.*", "model"]) | st.lists(st.sampled_from(["h", "layers"]))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(targets=_targets, excluded=st.none() | _targets, ranks=_patterns, alphas=_patterns, layers=_layers, lists=_lists)
def test_the_modules_ranks_and_alphas_are_those_of_peft(
    targets: Any, excluded: Any, ranks: dict[str, int], alphas: dict[str, int], layers: Any, lists: Any
) -> None:
    """A3, A4, A11."""
    if isinstance(targets, str):
        layers = None
    chosen = {
        "target_modules": targets,
        "exclude_modules": excluded or None,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "layers_to_transform": layers,
        "layers_pattern": lists if layers is not None else None,
    }
    values = lora_config(**chosen)
    assume(targets != "")
    try:
        expected = adapted_by_peft(LoraConfig(**chosen, r=4, lora_alpha=8))
    except (re.error, ValueError):
        with pytest.raises(InvalidAdapter):
            select(parse_config(values), BASE)
        return
    assert select(parse_config(values), BASE).modules == expected
    stored, _ = canonical_config(values, BASE)
    assert select(parse_config(stored), BASE).modules == expected


def adapted_by_peft(config: LoraConfig) -> dict[str, tuple[int, float]]:
    """Return the rank and alpha of each module of BASE that PEFT would adapt."""
    for pattern in (config.rank_pattern, config.alpha_pattern):
        for key in pattern:
            re.compile(rf"(.*\.)?({key})$")  # PEFT compiles those that it needs
    found = {path: check_target_module_exists(config, path) for path in BASE.modules}
    paths = [path for path, result in found.items() if result and not isinstance(result, _ExcludedModule)]
    return {
        path: (
            config.rank_pattern.get(get_pattern_key(config.rank_pattern, path), config.r),
            config.alpha_pattern.get(get_pattern_key(config.alpha_pattern, path), config.lora_alpha),
        )
        for path in paths
    }


def test_all_linear_means_what_peft_means() -> None:
    model = get_peft_model(LlamaForCausalLM(LlamaConfig(**asdict(SIZES))), LoraConfig(target_modules="all-linear"))
    names = {name.removeprefix("base_model.model.") for name, m in model.named_modules() if isinstance(m, LoraLayer)}
    assert select(parse_config(lora_config(target_modules="all-linear")), BASE).modules.keys() == names


def test_every_key_of_peft_is_known() -> None:
    """A key that this PEFT has is read, refused by name, or known to be without effect; see KNOWN_PEFT."""
    keys = LoraConfig.__dataclass_fields__.keys()
    known = READ_KEYS | REFUSED.keys() | LEFTOVERS | IGNORED | {"init_lora_weights"}
    assert keys - known == set()
    assert known - keys == set()
    assert tuple(map(int, peft.__version__.split(".")[:2])) == KNOWN_PEFT
