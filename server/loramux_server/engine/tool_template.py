"""A chat template that shows tools, for bases in ChatML's form whose own template leaves tools out."""

import json
from pathlib import Path
from uuid import uuid4

from loramux_server.errors import CannotStart

NAME = "chatml-tools"
"""The value of LORAMUX_ENGINE__CHAT_TEMPLATE that stands for a base's own template with tools added."""
_FORM = "<|im_start|>"
_FILE = Path(__file__).parent / "templates" / "chatml_tools.jinja"
_OWN_FILE = "chat_template.jinja"
_NAMED_FILE = Path("additional_chat_templates") / "tool_use.jinja"
"""Where transformers finds the template of a tokenizer for requests with tools."""


def with_tools(base: Path) -> str:
    """Return the chat template in the folder of a base, which renders requests with tools by ours.

    Raises:
        CannotStart: the base has no template in ChatML's form.
    """
    own = _own_template(base)
    if _FORM not in own:
        raise CannotStart(
            f"LORAMUX_ENGINE__CHAT_TEMPLATE={NAME} needs a base whose own chat template is in ChatML's form ({_FORM}), "
            "and this one's is not: name a file with a template that fits the base"
        )
    return f"{{% if tools %}}{_FILE.read_text().rstrip()}\n{{% else %}}{own}{{% endif %}}"


def add_tool_template(base: Path) -> None:
    """Write our template into the folder of a base as its template for requests with tools, if it has none.

    Raises:
        OSError: the folder can't be written.
    """
    target = base / _NAMED_FILE
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        partial = target.with_name(f".{uuid4().hex}")  # servers may start at the same time
        partial.write_bytes(_FILE.read_bytes())
        partial.replace(target)


def _own_template(base: Path) -> str:
    try:
        return (base / _OWN_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        pass
    try:
        found = json.loads((base / "tokenizer_config.json").read_bytes()).get("chat_template")
    except (OSError, ValueError, AttributeError):
        return ""
    return found if isinstance(found, str) else ""
