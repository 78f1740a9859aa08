"""Old names of settings that still work, with a warning."""

import logging
from collections.abc import Mapping
from typing import Any

from loramux_server.settings.errors import SettingsError
from loramux_server.settings.schema import PREFIX

RENAMED = {
    "usage_sum_days": "usage_rollup_days",
    "training.trial_questions": "training.evaluation_items",
}
"""Old and new name of each renamed setting, levels separated by dots; the last level alone may differ."""

log = logging.getLogger(__name__)


def rename_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """Return environment variables with their present names.

    Raises:
        SettingsError: a variable is set under its old and its present name.

    """
    renamed = dict(variables)
    for old, new in ((_variable(old), _variable(new)) for old, new in RENAMED.items()):
        for name in [name for name in renamed if name.upper() == old]:
            _move(renamed, name, new, (name, new))
    return renamed


def rename_keys(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with their present names, nested ones too.

    Raises:
        SettingsError: a setting is given under its old and its present name.

    """
    renamed = dict(settings)
    for old, new in RENAMED.items():
        *levels, last = old.split(".")
        parent: Any = renamed
        for level in levels:
            if isinstance(parent.get(level), Mapping):
                parent[level] = dict(parent[level])
            parent = parent.get(level)
            if not isinstance(parent, dict):
                break
        if isinstance(parent, dict) and last in parent:
            _move(parent, last, new.rpartition(".")[2], (old, new))
    return renamed


def _variable(setting: str) -> str:
    return PREFIX + setting.replace(".", "__").upper()


def _move(settings: dict[str, Any], old: str, new: str, names: tuple[str, str]) -> None:
    if new in settings:
        raise SettingsError("{} is the old name of {}: set only the latter.".format(*names))
    log.warning("%s is deprecated: use %s instead", *names)
    settings[new] = settings.pop(old)
