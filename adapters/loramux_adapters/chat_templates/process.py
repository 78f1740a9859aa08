"""The process of one chat template: `python -m loramux_adapters.chat_templates.process CPU_SECONDS` (see `renderer`).

It reads JSON lines and answers each with one: first `{"template": ...}`, answered by the template's Features, then
`{"values": ..., "now": ...}`, answered by `{"text": ...}`; or any of them by `{"error": ..., "is_limit": ...}`.
The kernel ends the process when a line takes more than CPU_SECONDS, also within one operation of the interpreter.
"""

import json
import resource
import signal
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Template, TemplateError, TemplateSyntaxError, meta
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from loramux_adapters.chat_templates.environment import CLOCK, make_environment, parsing_environment

MAX_MEMORY_BYTES = 1 << 28
MAX_TEXT_CHARACTERS = 1 << 23
"""Length of a rendered conversation; no context of a model is as long."""
MAX_REASON_CHARACTERS = 200
_MARK = "loramux-content-8c1f0a"


class _TooLongError(Exception):
    """A conversation was rendered to a text that is too long."""


_LIMITS = (MemoryError, RecursionError, _TooLongError)


def run(cpu_seconds: float) -> None:
    """Serve one template until standard input ends."""
    _limit_resources()
    template = None
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)  # SIGPROF ends the process, also within one long operation
        try:
            request = json.loads(line)
            if template is None:
                template, reply = _load(request["template"])
            else:
                reply = {"text": _render(template, request["values"], request["now"], request["max_characters"])}
            output = json.dumps(reply)
        except Exception as error:  # noqa: BLE001 - a template may raise anything, MemoryError and RecursionError too
            output = json.dumps({"error": _reason(error), "is_limit": isinstance(error, _LIMITS)})
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(output + "\n")
        sys.stdout.flush()


def _limit_resources() -> None:
    with suppress(OSError):  # the kernel ends this process first when memory is short
        Path("/proc/self/oom_score_adj").write_text("1000")
    for kind, limit in (
        (resource.RLIMIT_AS, MAX_MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 16),
    ):
        _, hard = resource.getrlimit(kind)
        value = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (value, value))


def _load(text: str) -> tuple[Template, dict[str, Any]]:
    """Compile a template, and return it with its Features."""
    template = make_environment().from_string(text)
    variables = meta.find_undeclared_variables(parsing_environment().parse(text))
    return template, {
        "variables": sorted(name for name in variables if name.isidentifier() and name.isascii()),
        "has_content_parts": _reads_parts(template),
        "has_developer_role": "'developer'" in text or '"developer"' in text,
        "needs_system_first": _needs_system_first(text),
    }


def _render(template: Template, values: dict[str, Any], now: str | None, max_characters: int) -> str:
    if now is not None:
        values = {CLOCK: datetime.fromisoformat(now).strftime} | values
    text = template.render(values)
    if len(text) > max_characters:
        raise _TooLongError(f"it writes {len(text)} characters, and at most {max_characters} are allowed")
    return text


def _reads_parts(template: Template) -> bool:
    """Whether it writes the text of contents that are lists of parts, and not the lists themselves."""
    messages = [{"role": "user", "content": [{"type": "text", "text": _MARK}]}]
    values = {"messages": messages, "bos_token": "", "eos_token": "", "add_generation_prompt": True}
    try:
        text = _render(template, values, None, MAX_TEXT_CHARACTERS)
    except Exception:  # noqa: BLE001 - it can't
        return False
    return _MARK in text and f"'{_MARK}'" not in text and f'"{_MARK}"' not in text


def _needs_system_first(text: str) -> bool:
    """Render as vLLM does to find out: in an environment without the functions of transformers."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    messages = [{"role": role, "content": "t"} for role in ("system", "user", "system", "user")]
    try:
        environment.from_string(text).render(messages=messages, add_generation_prompt=False)
    except TemplateError:
        return True
    except Exception:  # noqa: BLE001 - not an objection to the order
        return False
    return False


def _reason(error: Exception) -> str:
    if isinstance(error, TemplateSyntaxError):
        return f"line {error.lineno}: {error.message}"[:MAX_REASON_CHARACTERS]
    if isinstance(error, MemoryError):
        return f"it takes more than {MAX_MEMORY_BYTES >> 20} MiB of memory"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return (str(error) or type(error).__name__)[:MAX_REASON_CHARACTERS]


if __name__ == "__main__":
    run(float(sys.argv[1]))
