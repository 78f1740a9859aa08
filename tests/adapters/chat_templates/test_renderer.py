"""Templates of adapters are hostile input: whatever they do, the server gets an answer or an error in time."""

import os
import signal
import time
from datetime import datetime
from pathlib import Path

import pytest

from loramux_adapters.chat_templates.errors import LimitExceededError, RenderingError
from loramux_adapters.chat_templates.renderer import TemplateRenderer
from tests.helpers.chat_templates import CHATML, DATED, OPEN_THINK, PARTS

pytestmark = pytest.mark.slow

USER = {"role": "user", "content": "Which?\n"}
VALUES = {"messages": [USER], "add_generation_prompt": True, "tools": None}

COSTLY = {
    "loops within loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a sum that no signal interrupts": "{{ 7 ** (10 ** 8) }}",
    "a constant of the compiler": "{{ 'a' * 10 ** 10 }}",
    "a padded text": "{{ messages[0].content.ljust(10 ** 10) }}",
    "a doubled text": "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "endless Latin": "{{ lipsum(n=10 ** 7) }}",
    "a call of itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a hundred thousand brackets": "{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}",
    "a long answer": "{{ 'a' * 20000000 }}",
}


@pytest.mark.parametrize("name", COSTLY)
def test_a_template_that_takes_too_much_is_ended(name: str) -> None:
    """A10: none of them may take a request's thread for longer than its limit, or the server's memory."""
    started = time.monotonic()
    with TemplateRenderer(COSTLY[name], cpu_seconds=0.2) as renderer, pytest.raises(LimitExceededError):
        renderer.features()
        renderer.render(VALUES)
    assert time.monotonic() - started < 15


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% include '/etc/passwd' %}", "loader"),
        ("{{ raise_exception('only users') }}", "only users"),
        ("line\n{% if %}", "line 2: "),
        ("{{ raise_exception('a\x1b[1m\nb') }}", r"a \[1m b"),
        ("{{ missing.name }}", "'missing' is undefined"),
    ],
)
def test_a_template_that_fails_says_why(template: str, reason: str) -> None:
    with TemplateRenderer(template) as renderer, pytest.raises(RenderingError, match=reason) as failed:
        renderer.features()
        renderer.render(VALUES)
    assert not isinstance(failed.value, LimitExceededError)


def test_a_template_renders_after_a_conversation_that_it_refused_or_that_took_too_long() -> None:
    text = "{% if messages[0].content == 'x' %}{{ raise_exception('no') }}{% endif %}{{ 'a' * n }}"
    with TemplateRenderer(text, cpu_seconds=0.2) as renderer:
        with pytest.raises(RenderingError, match="no"):
            renderer.render({"messages": [{"content": "x"}], "n": 1})
        with pytest.raises(LimitExceededError):
            renderer.render(VALUES | {"n": 10**10})
        assert renderer.render(VALUES | {"n": 3}) == "aaa"


def test_a_process_that_was_killed_is_started_again() -> None:
    with TemplateRenderer("{{ messages[0].content }}") as renderer:
        renderer.features()
        assert renderer._process is not None
        os.kill(renderer._process.pid, signal.SIGKILL)
        renderer._process.wait()
        assert renderer.render(VALUES) == "Which?\n"


def test_the_process_ends_when_the_renderer_is_closed() -> None:
    with TemplateRenderer("a") as renderer:
        renderer.features()
        process = renderer._process
    assert process is not None
    assert process.returncode is not None


def test_the_process_ends_with_the_renderer() -> None:
    renderer = TemplateRenderer("a")
    renderer.features()
    process = renderer._process
    del renderer
    assert process is not None
    assert process.returncode is not None


def test_the_process_sees_no_environment() -> None:
    with TemplateRenderer("a") as renderer:
        renderer.features()
        assert renderer._process is not None
        assert Path(f"/proc/{renderer._process.pid}/environ").read_bytes() == b""


@pytest.mark.parametrize("content", ["é🙂 <s> \x00  ", "\ud800", "a" * 3_000_000, '"\n\\'])
def test_every_text_arrives_unchanged(content: str) -> None:
    with TemplateRenderer("{{ messages[0].content }}") as renderer:
        assert renderer.render({"messages": [{"content": content}]}) == content


def test_a_text_that_is_of_no_use_is_refused_before_it_is_sent() -> None:
    with TemplateRenderer("{{ 'a' * n }}") as renderer:
        assert renderer.render({"n": 100}, max_characters=100) == "a" * 100
        with pytest.raises(LimitExceededError, match="writes 101 characters, and at most 100 are allowed"):
            renderer.render({"n": 101}, max_characters=100)


def test_reasons_are_short() -> None:
    for template in ("{% " + "a" * 5000 + " %}", "{{ raise_exception('a' * 5000) }}"):
        with TemplateRenderer(template) as renderer, pytest.raises(RenderingError) as failed:
            renderer.render(VALUES)
        assert len(str(failed.value)) <= 200


def test_values_that_are_not_json_are_refused() -> None:
    with TemplateRenderer("{{ messages }}") as renderer, pytest.raises(RenderingError, match="not JSON"):
        renderer.render({"messages": object()})


def test_a_template_writes_the_date_that_is_given() -> None:
    with TemplateRenderer(DATED) as renderer:
        assert "26 Jul 2024" in renderer.render(VALUES, datetime(2024, 7, 26))  # noqa: DTZ001
        assert "26 Jul 2024" not in renderer.render(VALUES)


def test_features_are_found_by_compiling_and_rendering() -> None:
    with TemplateRenderer(PARTS) as renderer:
        assert renderer.features().has_content_parts
    with TemplateRenderer(CHATML + "{{ enable_thinking }}{{ raise_exception }}{# 'developer' #}") as renderer:
        features = renderer.features()
    assert set(features.variables) == {"messages", "add_generation_prompt", "enable_thinking", "raise_exception"}
    assert features.has_developer_role
    assert not features.has_content_parts
    with TemplateRenderer(OPEN_THINK) as renderer:
        assert "bos_token" in renderer.features().variables


def test_a_block_that_marks_answers_for_training_changes_nothing() -> None:
    with TemplateRenderer("<{% generation %}{{ messages[0].content }}{% endgeneration %}>") as renderer:
        assert renderer.render({"messages": [USER]}) == "<Which?\n>"
