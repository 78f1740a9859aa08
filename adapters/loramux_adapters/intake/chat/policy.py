"""Decides whether an adapter keeps the chat template that came with it, and refuses tokenizers of other bases."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from loramux_adapters.chat_templates.errors import LimitExceededError, RenderingError
from loramux_adapters.chat_templates.renderer import Features, TemplateRenderer
from loramux_adapters.errors import InvalidAdapter, printable
from loramux_adapters.intake.chat.companions import COMPANION_LIMITS, TOKENIZER_CONFIG_FILE, Companions
from loramux_adapters.intake.chat.tokenizer import check_added_tokens, check_tokenizer
from loramux_adapters.intake.content import TEMPLATE_FILE

TemplateUse = Literal["use", "ignore", "refuse"]
MAX_VARIABLES = 100
"""Number of variables of a chat template; those of known models have at most 20."""
SETTING = "LORAMUX_ADAPTER_CHAT_TEMPLATE"
_QUESTION = "What is loramux-sample-3f81?"
_OTHER_SAMPLES = (("system", "user"), ("user", "assistant", "user"))


@dataclass(frozen=True)
class ServedChat:
    """How conversations with the base are rendered."""

    template: str | None = None
    """Its chat template; None if it has none."""
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    """The special tokens of its tokenizer, such as `eos_token`, by name."""
    stop_tokens: frozenset[str] = frozenset()
    """The tokens that end its answers."""
    vocabulary: Callable[[], Mapping[str, int]] | None = None
    """Returns the numbers of its tokens; None if they can't be compared with those of adapters."""
    tokenizer: Path | None = None
    """Its tokenizer.json, if it has one."""
    refusal: str | None = None
    """Why no other template can be used; None if one can."""


@dataclass(frozen=True)
class ChatPolicy:
    """What is done with the chat templates of adapters of a base."""

    base: ServedChat = ServedChat(refusal="the base's conversations are not rendered by a chat template")
    use: TemplateUse = "use"

    def apply(self, folder: Path) -> list[str]:
        """Remove an adapter's tokenizer from `folder`, and its chat template unless it is used; return notes.

        A template counts as the base's own if Jinja reads both texts alike. To compare what the two render would miss
        differences in conversations that are not compared, such as those with tools.

        Raises:
            InvalidAdapter: the template does not work or is not wanted, or the tokenizer is of another base.
            OSError: a file can't be read or written.
        """
        own = Companions(folder)
        if not any(map(own.has, COMPANION_LIMITS)):
            return []
        text, others = own.template()
        notes = self._check_tokenizer(own)
        kept = None if text is None else self._keep(text, own.special_tokens, notes)
        if kept is not None and others:
            notes.append(f"{TOKENIZER_CONFIG_FILE}: of its chat templates, only 'default' is used")
        end = own.special_tokens.get("eos_token")
        if end and self.base.stop_tokens and end not in self.base.stop_tokens:
            notes.append(
                f"{TOKENIZER_CONFIG_FILE}: {printable(end)!r} does not end answers of this base: requests need `stop`"
            )
        for name in COMPANION_LIMITS:
            (folder / name).unlink(missing_ok=True)
        if kept is not None:
            (folder / TEMPLATE_FILE).write_bytes(kept.encode())
        return notes

    def _check_tokenizer(self, own: Companions) -> list[str]:
        notes: list[str] = []
        try:
            if self.base.vocabulary is not None:
                notes += check_added_tokens(own, self.base.vocabulary())
            if self.base.tokenizer is not None:
                notes += check_tokenizer(own, self.base.tokenizer)
        except InvalidAdapter as error:
            if self.use != "ignore":
                raise
            notes = [f"{error.message} ({SETTING}=ignore)"]
        return list(dict.fromkeys(notes))

    def _keep(self, text: str, tokens: Mapping[str, str], notes: list[str]) -> str | None:
        """Return the template to keep, None if the base's is used; adds notes.

        A special token that it reads is written into it, if the base has another one of that name.
        """
        other = {name: token for name, token in tokens.items() if self.base.special_tokens.get(name) != token}
        is_served = self.base.template is not None and as_read(text) == as_read(self.base.template)
        if is_served and not any(name in text for name in other):
            return None
        if self.use == "refuse":
            raise InvalidAdapter(f"is not the base's chat template ({SETTING}: use, ignore or refuse)",
                                 where=TEMPLATE_FILE)  # fmt: skip
        if self.use == "ignore" or self.base.refusal is not None:
            reason = f"{SETTING}=ignore" if self.use == "ignore" else self.base.refusal
            notes.append(f"{TEMPLATE_FILE}: its own chat template is not used: {reason}")
            return None
        variables = check_template(text).variables
        notes.append(f"{TEMPLATE_FILE}: its own chat template is used instead of the base's ({SETTING})")
        assignments = [f"{{% set {name} = {token!a} %}}\n" for name, token in other.items() if name in variables]
        if assignments:
            text = "".join(assignments) + text
            check_template(text)
        return text


def as_read(text: str) -> str:
    """Return a template's text as Jinja reads it: line ends are alike, and one at the end does not count."""
    return text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")


def check_template(text: str) -> Features:
    """Compile a template and render short conversations by it, within limits of time and memory.

    Raises:
        InvalidAdapter: it is malformed, exceeds its limits, or does not write a user's message.
    """
    try:
        with TemplateRenderer(text) as renderer:
            features = renderer.features()
            prompt = renderer.render(_sample(("user",), features))
            for roles in _OTHER_SAMPLES:
                _render_unless_refused(renderer, _sample(roles, features))
    except RenderingError as error:
        raise InvalidAdapter(f"the chat template can't be used: {error}", where=TEMPLATE_FILE) from error
    if len(features.variables) > MAX_VARIABLES:
        raise InvalidAdapter("the chat template has too many variables", where=TEMPLATE_FILE,
                             expected=f"at most {MAX_VARIABLES}", found=len(features.variables))  # fmt: skip
    if _QUESTION not in prompt:
        raise InvalidAdapter("the chat template does not write the user's message", where=TEMPLATE_FILE)
    return features


def _sample(roles: tuple[str, ...], features: Features) -> dict[str, Any]:
    content = [{"type": "text", "text": _QUESTION}] if features.has_content_parts else _QUESTION
    messages = [{"role": role, "content": content} for role in roles]
    return {"messages": messages, "add_generation_prompt": True, "bos_token": "", "eos_token": ""}


def _render_unless_refused(renderer: TemplateRenderer, values: dict[str, Any]) -> None:
    """Render a conversation that a template may refuse: some have no place for system messages."""
    try:
        renderer.render(values)
    except LimitExceededError:
        raise
    except RenderingError:
        pass
