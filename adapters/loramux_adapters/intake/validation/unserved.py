"""Stored adapters whose weights vLLM would ignore: they were accepted on another machine, or with other settings."""

from pathlib import Path

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.content import WEIGHTS_FILE, open_regular
from loramux_adapters.intake.validation.limits import max_header_bytes
from loramux_adapters.intake.validation.tensors import read_header
from loramux_adapters.intake.validation.unexpected import module_path


def unserved_reason(folder: Path, base: BaseDescription) -> str | None:
    """Return why vLLM would ignore weights of the accepted adapter in `folder`; None if it applies all of them.

    Files that can't be read are left to their load, which reports them.
    """
    try:
        with open_regular(folder / WEIGHTS_FILE) as file:
            size = (folder / WEIGHTS_FILE).stat().st_size
            names = read_header(file, size, WEIGHTS_FILE, max_header_bytes(base))
    except (OSError, InvalidAdapter):
        return None
    for name in names:
        path = module_path(name)
        if path not in base.served:
            known = base.modules.get(path)
            problem = base.refusal or (known.refusal if known else None) or "the base has no such module"
            return f"{path}: {problem}; add the adapter again when it is served"
    return None
