"""A10: an adapter's own chat template is used, ignored or refused as the setting says, and is never missed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loramux_adapters.chat_templates.renderer import TemplateRenderer
from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.chat.companions import COMPANION_LIMITS
from loramux_adapters.intake.chat.policy import ChatPolicy, ServedChat, TemplateUse
from loramux_adapters.intake.content import TEMPLATE_FILE
from tests.helpers.chat_templates import BRACKETS, CHATML, PARTS, TEMPLATES

VOCABULARY = {"<s>": 0, "<|im_end|>": 1}
BASE = ServedChat(
    template=CHATML,
    special_tokens={"bos_token": "<s>", "eos_token": "<|im_end|>"},
    stop_tokens=frozenset({"<|im_end|>"}),
    vocabulary=lambda: VOCABULARY,
)
SYSTEM = "{% if messages[0].role != 'system' %}You are Ada.{% endif %}" + CHATML


def apply(folder: Path, *, base: ServedChat = BASE, use: TemplateUse = "use") -> list[str]:
    return ChatPolicy(base, use).apply(folder)


def write(folder: Path, template: str | None = None, **config: Any) -> Path:
    if template is not None:
        (folder / TEMPLATE_FILE).write_text(template, newline="")
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def kept(folder: Path) -> str | None:
    """Return the template that was kept; no other companion may be left."""
    left = {path.name for path in folder.iterdir()}
    assert left <= {TEMPLATE_FILE}
    return (folder / TEMPLATE_FILE).read_text() if left else None


def test_nothing_beside_the_weights_is_no_note(tmp_path: Path) -> None:
    assert apply(tmp_path) == []
    assert kept(tmp_path) is None


@pytest.mark.parametrize("template", [CHATML, CHATML + "\n", CHATML.replace("\n", "\r\n")])
def test_a_template_that_jinja_reads_as_the_bases_is_dropped_silently(tmp_path: Path, template: str) -> None:
    """A10."""
    assert apply(write(tmp_path, template)) == []
    assert kept(tmp_path) is None


def test_another_template_is_kept_with_a_note(tmp_path: Path) -> None:
    """A10: here, the default system prompt is the difference."""
    [note] = apply(write(tmp_path, SYSTEM))
    assert "its own chat template is used" in note
    assert kept(tmp_path) == SYSTEM


def test_two_line_ends_at_the_end_are_a_difference_because_jinja_writes_one(tmp_path: Path) -> None:
    assert apply(write(tmp_path, CHATML + "\n\n"))
    assert kept(tmp_path) == CHATML + "\n\n"


def test_a_template_of_a_base_without_one_is_kept(tmp_path: Path) -> None:
    assert apply(write(tmp_path, CHATML), base=ServedChat())
    assert kept(tmp_path) == CHATML


@pytest.mark.parametrize("field", [SYSTEM, [{"name": "default", "template": SYSTEM}]])
def test_a_template_in_the_tokenizers_configuration_is_found(tmp_path: Path, field: object) -> None:
    """A10: as transformers wrote it before 2025."""
    assert apply(write(tmp_path, chat_template=field))
    assert kept(tmp_path) == SYSTEM


def test_the_template_of_a_processor_is_found(tmp_path: Path) -> None:
    """A10: as transformers wrote it for multimodal bases."""
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": SYSTEM}))
    assert apply(write(tmp_path, chat_template=CHATML))
    assert kept(tmp_path) == SYSTEM


def test_the_file_has_precedence_over_the_configuration(tmp_path: Path) -> None:
    assert apply(write(tmp_path, CHATML, chat_template=SYSTEM)) == []


def test_of_several_templates_the_default_is_used_with_a_note(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": SYSTEM}]
    notes = apply(write(tmp_path, chat_template=named))
    assert any("only 'default' is used" in note for note in notes)


def test_the_setting_ignores_templates_with_a_note(tmp_path: Path) -> None:
    """A10."""
    [note] = apply(write(tmp_path, SYSTEM), use="ignore")
    assert "LORAMUX_ADAPTER_CHAT_TEMPLATE=ignore" in note
    assert kept(tmp_path) is None


def test_an_ignored_template_is_not_run(tmp_path: Path) -> None:
    assert apply(write(tmp_path, "{% nonsense %}"), use="ignore")


def test_the_setting_refuses_templates_but_not_the_bases(tmp_path: Path) -> None:
    """A10."""
    with pytest.raises(InvalidAdapter, match="LORAMUX_ADAPTER_CHAT_TEMPLATE"):
        apply(write(tmp_path, SYSTEM), use="refuse")
    assert apply(write(tmp_path, CHATML), use="refuse") == []


def test_a_base_that_is_not_rendered_by_a_template_uses_no_other_one(tmp_path: Path) -> None:
    [note] = apply(write(tmp_path, SYSTEM), base=ServedChat(refusal="the base has code for it"))
    assert "is not used: the base has code for it" in note


@pytest.mark.parametrize("template", [CHATML, BRACKETS, TEMPLATES["stripping"], PARTS])
def test_every_form_of_template_is_accepted(tmp_path: Path, template: str) -> None:
    apply(write(tmp_path, template))
    assert kept(tmp_path) == (None if template == CHATML else template)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for %}", "line 1"),
        ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
        ("{{ 'a' * 10**10 }}", "256 MiB"),
        ("{{ messages[0].missing.x }}", "no attribute 'missing'"),
        ("Hello.", "does not write the user's message"),
        ("x" * (COMPANION_LIMITS[TEMPLATE_FILE] + 1), "too large"),
    ],
)
def test_a_template_that_does_not_work_is_refused_with_the_reason(tmp_path: Path, template: str, reason: str) -> None:
    with pytest.raises(InvalidAdapter, match=reason):
        apply(write(tmp_path, template))


@pytest.mark.slow
def test_a_template_that_takes_too_long_for_some_roles_only_is_refused(tmp_path: Path) -> None:
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    template = "{% if messages[0].role == 'system' %}" + loop + "{% endif %}" + CHATML
    with pytest.raises(InvalidAdapter, match="more than 1 s"):
        apply(write(tmp_path, template))


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{"])
@pytest.mark.parametrize("name", [TEMPLATE_FILE, "tokenizer_config.json", "added_tokens.json"])
def test_damaged_files_are_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    if name == TEMPLATE_FILE and content == b"{":
        content = b""
    with pytest.raises(InvalidAdapter, match=name):
        apply(tmp_path)


@pytest.mark.parametrize("field", [3, [3], [{"name": "default"}], {"default": 3}])
def test_a_field_that_is_no_template_is_refused(tmp_path: Path, field: object) -> None:
    with pytest.raises(InvalidAdapter, match=r"tokenizer_config\.json"):
        apply(write(tmp_path, chat_template=field))


@pytest.mark.parametrize("token", ["<|end|>", {"content": "<|end|>", "special": True}])
def test_a_special_token_of_another_name_is_written_into_the_template(tmp_path: Path, token: object) -> None:
    """A10: the template was rendered with its own tokenizer's tokens in training."""
    base = replace(BASE, template=BRACKETS)
    notes = apply(write(tmp_path, BRACKETS, eos_token=token), base=base)
    text = kept(tmp_path) or ""
    assert any("'<|end|>' does not end answers" in note for note in notes)
    with TemplateRenderer(text) as renderer:
        messages = [{"role": "assistant", "content": "A"}]
        assert renderer.render({"messages": messages, "bos_token": "<s>", "eos_token": "</s>"}) == "<s> A<|end|>"


def test_a_special_token_that_the_template_does_not_read_is_no_difference(tmp_path: Path) -> None:
    assert apply(write(tmp_path, CHATML, bos_token="x", eos_token="<|im_end|>")) == []
    assert kept(tmp_path) is None


def test_another_end_of_answers_is_a_note(tmp_path: Path) -> None:
    """A10: the answers would go on until their limit."""
    [note] = apply(write(tmp_path, eos_token="<s>"))
    assert "'<s>' does not end answers of this base" in note


def test_a_special_token_is_short(tmp_path: Path) -> None:
    """A10: a note of megabytes would be one of megabytes in every list of adapters."""
    with pytest.raises(InvalidAdapter, match="eos_token is too long"):
        apply(write(tmp_path, CHATML, eos_token="🙂" * 201))


def test_notes_are_short_and_on_one_line(tmp_path: Path) -> None:
    notes = apply(write(tmp_path, "{{ eos_token }}" + CHATML, eos_token="\n" * 200))
    assert all(len(note) < 1000 and note.isprintable() for note in notes)


def test_a_template_has_few_variables(tmp_path: Path) -> None:
    """A10: vLLM's parser would take a second for thousands, on the first request."""
    with pytest.raises(InvalidAdapter, match="at most 100"):
        apply(write(tmp_path, CHATML + "".join(f"{{{{ v{number} }}}}" for number in range(200))))


def test_half_of_a_character_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "\\ud800"}')
    with pytest.raises(InvalidAdapter, match=r"tokenizer_config\.json"):
        apply(tmp_path)


def test_a_base_whose_tokens_have_other_numbers_refuses_no_tokens(tmp_path: Path) -> None:
    """A10: with a tokenizer of its own, a base has no numbers to compare."""
    write(tmp_path, None, added_tokens_decoder={"7": {"content": "<tool>"}})
    assert apply(tmp_path, base=ServedChat(refusal="the base has code for it")) == []


@pytest.mark.slow
@pytest.mark.parametrize("token", ["it's", '"', "{% x %}", "\\", "🙂", "\n"])
def test_any_special_token_is_written_as_it_is(tmp_path: Path, token: str) -> None:
    apply(write(tmp_path, "{{ eos_token }}\n" + CHATML, eos_token=token))
    with TemplateRenderer(kept(tmp_path) or "") as renderer:
        assert renderer.render({"messages": []}) == f"{token}\n"
