"""Names of modules are resolved rightly on every architecture of transformers that can be built small."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.normalization.paths import Paths
from tests.helpers.tiny_bases.configs import shrunk

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
TEXT = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
MULTIMODAL = set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values())


def built(architectures: set[str]) -> Iterator[Any]:
    """Yield a model without weights of each architecture; those that need more than small sizes are left out."""
    for name in sorted(architectures):
        with suppress(Exception), torch.device("meta"):
            model_class = getattr(transformers, name)
            yield model_class(shrunk(model_class.config_class))


def modules(model: nn.Module) -> list[str]:
    kinds = (nn.Linear, nn.Embedding, transformers.pytorch_utils.Conv1D)
    return [name for name, module in model.named_modules() if isinstance(module, kinds)]


def found(paths: Paths, name: str) -> str | None:
    try:
        return paths.find(name.split("."), name)
    except InvalidAdapter:
        return "refused"


def test_every_module_is_found_by_its_name_with_any_prefix() -> None:
    """A12: names without prefix, `.default.`, `_orig_mod.`"""
    count = 0
    for model in built(set(TEXT.values()) | MULTIMODAL):
        paths, count = Paths(modules(model)), count + 1
        for path in modules(model):
            for prefix in ("", "base_model.model.", "_orig_mod.base_model.model.", "module."):
                assert found(paths, prefix + path) == path
            inner = path.partition(".")[2]
            # Of a vision tower, this is also the name that a text model has.
            assert found(paths, inner) in {path, None, "refused"} or _is_vision(path) or inner in modules(model)
    assert count > 150


def test_a_text_model_s_names_are_found_in_the_text_part_of_the_multimodal_base() -> None:
    """A12: `language_model.`"""
    pairs = 0
    for model in built(MULTIMODAL - set(TEXT.values())):
        config = model.config.get_text_config()
        for text in built({TEXT.get(config.model_type, "")}):
            linear = [path for path in modules(text) if isinstance(text.get_submodule(path), nn.Linear)]
            inside = [path for path in modules(model) if not _is_vision(path)]
            paths = Paths(modules(model), preferred=inside)
            resolved = [found(paths, path) for path in linear]
            assert set(resolved) <= set(inside), type(model).__name__
            assert len(set(resolved)) == len(resolved)
            assert all(str(to).endswith(path.removeprefix("model.")) for path, to in zip(linear, resolved, strict=True))
            pairs += 1
    assert pairs > 25


def _is_vision(path: str) -> bool:
    return any(part in path for part in ("vision", "visual", "image", "vit", "audio", "qformer"))
