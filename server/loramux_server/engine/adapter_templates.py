"""Chat templates of adapters: a request for a version that has one is rendered by it, and all others as before.

vLLM has one chat template per server. For such a version, vLLM's renderer gets a stand-in for the adapter's template:
with the same variables and the same form of contents, but its only action is to call a function, which renders the real
one in its own process. So everything around the template is vLLM's code, and nothing of the template runs here.
"""

import asyncio
import copy
import hashlib
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

from jinja2 import TemplateError, pass_context
from jinja2.runtime import Context
from transformers import PreTrainedTokenizerBase
from vllm.exceptions import VLLMValidationError
from vllm.renderers.hf import HfRenderer, safe_apply_chat_template
from vllm.utils.async_utils import make_async

from loramux_adapters.chat_templates.environment import CLOCK
from loramux_adapters.chat_templates.errors import RenderingError
from loramux_adapters.chat_templates.process import MAX_TEXT_CHARACTERS
from loramux_adapters.chat_templates.renderer import Features, TemplateRenderer
from loramux_adapters.intake.content import TEMPLATE_FILE
from loramux_adapters.models import VersionId
from loramux_adapters.registry.registry import VersionRecord
from loramux_server.engine.vllm_compat import GracefulHTTPError
from loramux_server.request_context import current_request

MAX_PROCESSES = 16
"""Number of templates whose processes are kept between requests."""
_BUSY = "The adapter's chat template takes too long for all requests that wait for it; try again later."
_RENDER = "render_adapter_template"


class VersionFiles(Protocol):
    """The stored versions."""

    def version(self, name: str) -> VersionRecord | None:
        """Return the version NAME@DIGEST."""

    def path(self, version: VersionId) -> Path:
        """Return the folder of its files."""


class _RefusedError(Exception):
    """A refused conversation. vLLM logs this error, and answers with its cause, which may quote the client."""

    def __str__(self) -> str:
        return "the adapter's chat template failed"


class AdapterTemplates:
    """The chat templates of versions; equal ones of several versions share a process."""

    def __init__(self, files: VersionFiles) -> None:
        self._files = files
        self._templates: OrderedDict[str, AdapterTemplate] = OrderedDict()

    def of(self, version: VersionId) -> "AdapterTemplate | None":
        """Return the version's own chat template, None if it is rendered as the base.

        Raises:
            VLLMValidationError: the file is missing, or was changed.
        """
        record = self._files.version(str(version))
        stored = record.manifest.files.get(TEMPLATE_FILE) if record else None
        if stored is None:
            return None
        template = self._templates.get(stored.sha256)
        if template is None:
            template = AdapterTemplate(_read(self._files.path(version) / TEMPLATE_FILE, stored.sha256))
            self._templates[stored.sha256] = template
        self._templates.move_to_end(stored.sha256)
        while len(self._templates) > MAX_PROCESSES:
            self._templates.popitem(last=False)[1].close()
        return template

    def of_request(self) -> "AdapterTemplate | None":
        """Return the own chat template of the version that the current request is for; None if there is none.

        Raises:
            VLLMValidationError: the file is missing, or was changed.
        """
        context = current_request.get(None)
        if context is None or not context.versions:
            return None
        return self.of([*context.versions.values()][-1])


class AdapterTemplate:
    """One chat template with a process and a thread of its own, so that it keeps nobody else waiting."""

    def __init__(self, text: str) -> None:
        self._renderer = TemplateRenderer(text)
        self._thread = ThreadPoolExecutor(1, "chat-template")
        self._apply = make_async(_apply, executor=self._thread)
        self._features: Features | None = None

    async def render_messages(self, renderer: HfRenderer, messages: Any, params: Any) -> Any:
        """Return what vLLM's `renderer` returns for these messages, but by this template.

        Raises:
            VLLMValidationError: the template refuses the messages, or exceeds its limits.
            GracefulHTTPError: too many requests wait for it.
        """
        stand_in = _stand_in(await self.features())
        own = copy.copy(renderer)
        own._apply_chat_template_async = self._apply
        max_characters = renderer.model_config.max_model_len * renderer.tokenizer.max_chars_per_token

        @pass_context
        def render(context: Context) -> str:
            return self._render(context, max_characters)

        values = params.chat_template_kwargs | {_RENDER: render}
        changed = replace(params, chat_template=stand_in, chat_template_kwargs=values)
        try:
            return await HfRenderer.render_messages_async(own, messages, changed)
        except TimeoutError as error:
            raise GracefulHTTPError(_BUSY, HTTPStatus.SERVICE_UNAVAILABLE) from error

    def close(self) -> None:
        """End the process after the renderings that have begun; it starts again if it is used again."""
        self._thread.submit(self._renderer.close)

    async def features(self) -> Features:
        """Return the properties of the template.

        Raises:
            VLLMValidationError: the template exceeds its limits.
        """
        loop = asyncio.get_running_loop()
        if self._features is None:
            try:
                self._features = await loop.run_in_executor(self._thread, self._renderer.features)
            except RenderingError as error:
                raise VLLMValidationError(f"The adapter's chat template can't be used: {error}.") from error
        return self._features

    def _render(self, context: Context, max_characters: int) -> str:
        """Render the variables of the stand-in by the template; functions are left out: the process has its own."""
        variables = context.get_all()
        values = {name: value for name, value in variables.items() if not callable(value)}
        clock = getattr(variables.get(CLOCK), "__self__", None)
        try:
            now = clock if isinstance(clock, datetime) else None
            return self._renderer.render(values, now, min(max_characters, MAX_TEXT_CHARACTERS))
        except RenderingError as error:
            raise _RefusedError from TemplateError(str(error))


class _Tokenizer:
    """vLLM's tokenizer, whose copies stay free for other requests while a template is rendered.

    vLLM has a few copies, for threads, and makes another one, of many megabytes, if all are in use.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def apply_chat_template(self, *args: Any, **kwargs: Any) -> Any:
        """Render as the tokenizer does, without one of its copies."""
        return PreTrainedTokenizerBase.apply_chat_template(self._tokenizer, *args, **kwargs)


def _apply(config: Any, tokenizer: Any, conversation: Any, **kwargs: Any) -> Any:
    return safe_apply_chat_template(config, _Tokenizer(tokenizer), conversation, **kwargs)


def use_adapter_templates(chat: Any, templates: AdapterTemplates) -> None:
    """Render requests by the templates of their versions, for all handlers that share the renderer of `chat`.

    A template in the request itself, which vLLM refuses unless `trust_request_chat_template` is set, has precedence.
    """
    renderer = chat.engine_client.renderer
    as_base = renderer.render_messages_async

    async def render_messages_async(messages: Any, params: Any) -> Any:
        template = templates.of_request() if params.chat_template in (None, chat.chat_template) else None
        if template is None:
            return await as_base(messages, params)
        return await template.render_messages(renderer, messages, params)

    if has_template_renderer(chat.model_config, renderer):
        renderer.render_messages_async = render_messages_async


def has_template_renderer(config: Any, renderer: Any) -> bool:
    """Whether vLLM renders the conversations of a base by a chat template; some bases have code for it instead."""
    is_harmony = config.hf_config.model_type == "gpt_oss"
    return type(renderer) is HfRenderer and renderer.tokenizer is not None and not is_harmony


def _read(path: Path, sha256: str) -> str:
    try:
        content = path.read_bytes()
    except OSError:
        content = b""
    if hashlib.sha256(content).hexdigest() != sha256:
        raise VLLMValidationError("The adapter's chat template was changed after it was accepted; add it again.")
    return content.decode()


def _stand_in(features: Features) -> str:
    """Return a template that vLLM treats as the one with these features, and that only calls `_render`."""
    contents = "{% for message in messages %}{% for part in message['content'] %}{% endfor %}{% endfor %}"
    mentions = [f"{{{{ {name} }}}}" for name in features.variables]
    mentions.append(contents if features.has_content_parts else "{{ messages[0]['content'] }}")
    if features.has_developer_role:
        mentions.append("{{ 'developer' }}")
    return f"{{% if false %}}{''.join(mentions)}{{% endif %}}{{{{ {_RENDER}() }}}}"
