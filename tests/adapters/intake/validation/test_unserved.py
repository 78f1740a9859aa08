"""Stored adapters are compared with what this engine applies adapters to."""

from pathlib import Path

import pytest

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.intake.content import WEIGHTS_FILE
from loramux_adapters.intake.validation.unserved import unserved_reason
from tests.helpers.adapter_files import BASE, write_adapter


def refusing(*ends: str, refusal: str | None = None) -> BaseDescription:
    """Return the base, but vLLM does not adapt the modules with these ends of names."""
    modules = {
        path: module.model_copy(update={"refusal": "not on this machine"}) if path.endswith(ends) else module
        for path, module in BASE.modules.items()
    }
    return BaseDescription.of(modules, spec=BASE.spec, parameters=BASE.parameters, refusal=refusal)


def test_an_adapter_of_served_modules_stays_in_service(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path)
    assert unserved_reason(folder, BASE) is None
    assert unserved_reason(folder, refusing("o_proj", "lm_head")) is None


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        (refusing("1.self_attn.v_proj"), "model.layers.1.self_attn.v_proj: not on this machine; add the adapter again"),
        (refusing("none", refusal="served alone"), "served alone"),
    ],
)
def test_an_adapter_whose_weights_would_be_ignored_has_a_reason(
    tmp_path: Path, base: BaseDescription, reason: str
) -> None:
    assert reason in (unserved_reason(write_adapter(tmp_path), base) or "")


def test_an_adapter_of_modules_that_a_library_renamed_has_a_reason(tmp_path: Path) -> None:
    renamed = {path.replace("v_proj", "value"): module for path, module in BASE.modules.items()}
    base = BaseDescription.of(renamed, spec=BASE.spec, parameters=BASE.parameters)
    assert "the base has no such module" in (unserved_reason(write_adapter(tmp_path), base) or "")


def test_files_that_can_not_be_read_are_left_to_their_load(tmp_path: Path) -> None:
    assert unserved_reason(tmp_path, BASE) is None
    (tmp_path / WEIGHTS_FILE).write_bytes(b"x" * 100)
    assert unserved_reason(tmp_path, BASE) is None
