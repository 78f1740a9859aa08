"""A base without weights and a server around the fake engine: vLLM's handlers, our shell, no model."""

import asyncio
import contextlib
import functools
import json
import logging
import socket
import ssl
from argparse import Namespace
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import openai
import uvicorn
from prometheus_client import CollectorRegistry
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from loramux_adapters.intake.sources.folder import FolderSource
from loramux_adapters.models import parse_adapter_name
from loramux_server.adapter_storage import open_storage
from loramux_server.app import Server, build_server
from loramux_server.base_model import ResolvedBase
from loramux_server.configured_adapters import FRONTEND_DEFAULTS
from loramux_server.engine.arguments import engine_arguments
from loramux_server.engine.fake import FakeEngine
from loramux_server.lifecycle import Lifecycle, bind
from loramux_server.settings import Settings
from tests.helpers.adapter_files import BASE, SIZES, lora_tensors, write_adapter
from tests.helpers.llama_bases import llama_base
from tests.helpers.migrated_database import migrated_database

TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
MAX_MODEL_LEN = 256
_ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


def write_base(folder: Path) -> ResolvedBase:
    """Write the config and a byte-level tokenizer of a Llama with the shapes of tests' BASE."""
    folder.mkdir(parents=True)
    vocabulary = {token: number for number, token in enumerate(["</s>", *_ALPHABET])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    shapes = asdict(SIZES) | {"vocab_size": len(vocabulary)}
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": MAX_MODEL_LEN}
    (folder / "config.json").write_text(json.dumps(shapes | config | {"eos_token_id": 0, "torch_dtype": "float32"}))
    return ResolvedBase(folder, BASE.name)


@dataclass
class TinyServer:
    """A server on a socket of this machine, and the clients to ask it with."""

    url: str
    server: Server
    engine: FakeEngine
    settings: Settings
    http: httpx.AsyncClient
    client: openai.AsyncOpenAI
    life: "asyncio.Task[int]"

    async def add(self, name: str, seed: int = 0) -> str:
        """Register an adapter with weights of its own, and return its version's id."""
        place = self.settings.allowed_roots[0] / f"{name.replace('/', '-')}-{seed}"
        folder = write_adapter(place, None, lora_tensors(seed=seed))
        source = FolderSource(folder, self.settings.allowed_roots)
        record = await self.server.adapter_service.add(parse_adapter_name(name), source, actor="test")
        return str(record.id)

    async def evict(self) -> None:
        """Leave no adapter in the engine: each had to be there when it was added."""
        library = self.server.adapter_service
        for record in library.resolver.adapters():
            for version in record.versions:
                library.pool.discard(version.id)
        while self.engine.loaded:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0)

    async def chat(self, model: str, content: str = "hello", **options: Any) -> Any:
        """Ask `model` for 20 tokens unless told otherwise."""
        options = {"max_tokens": 20} | options
        return await self.client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": content}], **options
        )


def small_arguments(base: ResolvedBase) -> Namespace:
    """Arguments for an engine with room for two adapters."""
    return Namespace(**vars(_small_arguments(base)))


@functools.cache
def _small_arguments(base: ResolvedBase) -> Namespace:
    small = {"max_loras": 2, "max_cpu_loras": 2, "max_model_len": MAX_MODEL_LEN, "dtype": "float32"}
    # Every handler would look for a generation config, and hash the whole configuration.
    quick = {"generation_config": "vllm", "fingerprint_mode": "none"}
    return engine_arguments(base.path, base.name, FRONTEND_DEFAULTS | small | quick)


@functools.cache
def _tls_context() -> ssl.SSLContext:
    """Return a context for clients: each would load the machine's certificates again."""
    return ssl.create_default_context()


def small_engine(base: ResolvedBase) -> FakeEngine:
    """A fake engine with room for two adapters."""
    return FakeEngine(small_arguments(base))


class _QuickAsyncio:
    """asyncio for uvicorn, which checks every 0.1 s whether to stop, and waits 0.1 s more: seconds for many servers."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        """Sleep a tenth of the time."""
        await asyncio.sleep(seconds / 10)


@contextlib.asynccontextmanager
async def tiny_server(
    root: Path, base: ResolvedBase, *, keys: tuple[str, ...] = (), arguments: Namespace | None = None, **settings: Any
) -> AsyncIterator[TinyServer]:
    """Serve `base` on the fake engine until the context ends."""
    configured = Settings(
        data_dir=root / "data",
        allowed_roots=(root / "adapters",),
        adapters={},
        api_keys=keys,
        **{"usage_flush_seconds": 0.05} | settings,
    )
    arguments = arguments or small_arguments(base)
    fake = FakeEngine(arguments)
    configured.data_dir.mkdir(parents=True, exist_ok=True)
    migrated_database(configured.data_dir / "loramux.sqlite3").dispose()
    description = llama_base(replace(SIZES, vocab_size=1 + len(_ALPHABET)), base.name)
    server = await build_server(
        configured, open_storage(configured, description, base.path), fake, arguments, CollectorRegistry()
    )
    listener = bind("127.0.0.1", 0)
    # Connections inherit it. asyncio, unlike uvloop, leaves it unset there, and each response would take 0.04 s more.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    started = asyncio.Event()
    ready = server.readiness
    life = Lifecycle(
        server.app,
        listener,
        ready.is_engine_dead,
        ready.drain.start,
        configured.drain_seconds,
        handles_signals=False,
    )
    living = asyncio.create_task(life.run(started.set))
    await started.wait()
    key = keys[0] if keys else "none"
    with patch.object(uvicorn.server, "asyncio", _QuickAsyncio()):
        async with (
            server.usage_recorder.recording(),
            server.job_supervisor.running(),
            server.keys.following(),
            server.limits.running(),
            httpx.AsyncClient(base_url=url, timeout=30, verify=_tls_context()) as http,
            openai.DefaultAsyncHttpxClient(verify=_tls_context()) as transport,
            # Its own timeout gives a connection 5 s, which is too little on a busy machine.
            openai.AsyncOpenAI(
                base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60, http_client=transport
            ) as client,
        ):
            try:
                yield TinyServer(url, server, fake, configured, http, client, living)
            finally:
                life.stop()
                await living
                # The end of a server silences it, for the rest of the process: tests would depend on their order.
                logging.getLogger("uvicorn.error").setLevel(logging.NOTSET)
