"""Proves that the engine can compile what an answer must match, before the engine is asked to.

Compiling a hostile schema takes hours and gigabytes, and nothing can end it in the engine, where all structured output
waits for it. So it is compiled in a process with limits first, whose result is the backend that the engine will use.
vLLM's own check, which would run on the event loop, runs there too.
"""

import asyncio
import hashlib
import json
import os
import pickle
import socket
import subprocess
import sys
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from copy import copy
from dataclasses import asdict
from typing import Any, Self
from weakref import WeakValueDictionary

from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.v1.structured_output import backend_xgrammar

from loramux_server.engine.grammars.size import check_size
from loramux_server.errors import InvalidRequest, LoramuxError, ServerOverloaded
from loramux_server.settings.request_limits import GrammarLimits

MAX_WAITING = 64
"""Grammars that may wait for their turn."""
WALL_SECONDS = 30.0
"""The limit for one grammar on a machine so busy that its CPU time takes that long; the first waits for the start."""
START_SECONDS = 120.0
_REMEMBERED = 1024


class GrammarSandbox:
    """Compiles grammars in forks of a process, and remembers the results.

    The process is started for the first grammar: it imports vLLM, which takes seconds of CPU time and half a gigabyte.
    """

    def __init__(self, config: Any, limits: GrammarLimits, concurrency: int | None = None) -> None:
        self._config, self._limits = config, limits
        self._turns = asyncio.Semaphore(concurrency or max(1, (os.cpu_count() or 2) // 2))
        self._waiting, self._is_warm = 0, False
        self._results: OrderedDict[bytes, dict[str, Any]] = OrderedDict()
        self._locks: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()
        self._stack = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    async def prove(self, params: SamplingParams) -> SamplingParams:
        """Return `params` as the engine may have them: with the backend by which their grammar was compiled.

        Raises:
            InvalidRequest: the grammar is invalid, or exceeds a limit.
            ServerOverloaded: too many grammars wait to be compiled.
        """
        wanted = params.structured_outputs
        if wanted is None or wanted.all_constraints_none():
            return params
        fields = _fields(wanted)
        check_size(fields, self._limits)
        request = json.dumps({"structured_outputs": fields, "stop_token_ids": params.stop_token_ids or []})
        key = hashlib.sha256(request.encode()).digest()
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:  # a request of many prompts asks for each of them
            result = self._results.get(key) or await self._compile(request)
            self._remember(key, result)
        return _apply(params, result, self._limits)

    def _remember(self, key: bytes, result: dict[str, Any]) -> None:
        self._results[key] = result
        self._results.move_to_end(key)
        if len(self._results) > _REMEMBERED:
            self._results.popitem(last=False)

    async def _compile(self, request: str) -> dict[str, Any]:
        if self._waiting >= MAX_WAITING:
            raise ServerOverloaded("Too many requests with structured output wait to be checked.")
        self._waiting += 1
        try:
            async with self._turns:
                return await self._ask(request)
        finally:
            self._waiting -= 1

    async def _ask(self, request: str) -> dict[str, Any]:
        """Have a fork compile; it ends when this is cancelled, because its socket is closed."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [b"."], [theirs.fileno()])
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        try:
            async with asyncio.timeout(WALL_SECONDS if self._is_warm else START_SECONDS):
                writer.write(request.encode() + b"\n")
                reply = await reader.read(-1)
        except (TimeoutError, OSError) as error:
            raise ServerOverloaded("Structured output could not be checked in time.") from error
        finally:
            writer.close()
        self._is_warm = True
        return dict(json.loads(reply)) if reply else {"limit": ""}

    def _start(self) -> None:
        self._stack.close()
        self._is_warm = False
        self._control, theirs = socket.socketpair()
        # A file, because a pipe would have the event loop wait until the process reads it.
        with theirs, os.fdopen(os.memfd_create("vllm-config"), "w+b") as config:
            pickle.dump(self._config, config)
            config.seek(0)
            process = subprocess.Popen(
                (sys.executable, "-m", f"{__package__}.process", str(theirs.fileno()), self._limits.model_dump_json()),
                stdin=config,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._process = process
        self._stack.callback(_end, process, self._control)


def _end(process: "subprocess.Popen[bytes]", control: socket.socket) -> None:
    control.close()
    process.kill()
    process.wait()


def _fields(params: StructuredOutputsParams) -> dict[str, Any]:
    """Return the constructor's arguments."""
    return {name: value for name, value in asdict(params).items() if value is not None and not name.startswith("_")}


def _apply(params: SamplingParams, result: dict[str, Any], limits: GrammarLimits) -> SamplingParams:
    if "limit" in result:
        reason = result["limit"] or (
            f"compiling it takes more than {limits.cpu_seconds:g} s of CPU time or {limits.memory_mib} MiB of memory"
        )
        raise _refused(params, f"is too complex: {reason}")
    if "error" in result:
        raise _refused(params, f"is invalid: {result['error']}")
    proven = copy(params)
    proven.structured_outputs = copy(params.structured_outputs)
    vars(proven.structured_outputs).update(dict.fromkeys(_fields(params.structured_outputs)) | result["params"])
    return proven


def _refused(params: SamplingParams, what: str) -> LoramuxError:
    kind = next(iter(_fields(params.structured_outputs)))
    return InvalidRequest(f"What the answer must match ({kind}) {what}.", param=f"structured_outputs.{kind}")


@asynccontextmanager
async def grammar_sandbox(engine: Any, limits: GrammarLimits) -> AsyncIterator[GrammarSandbox]:
    """Check the grammars of `engine` in a process; it ends with the context."""
    with GrammarSandbox(engine.vllm_config, limits) as sandbox, _checked_elsewhere(engine.input_processor):
        yield sandbox


@contextmanager
def _checked_elsewhere(input_processor: Any) -> Iterator[None]:
    """Do not have vLLM parse grammars on the event loop: neither while it reads a request, nor when it starts it."""
    config, validate = input_processor.structured_outputs_config, backend_xgrammar.validate_xgrammar_grammar
    input_processor.structured_outputs_config, backend_xgrammar.validate_xgrammar_grammar = None, _check_support
    try:
        yield
    finally:
        input_processor.structured_outputs_config, backend_xgrammar.validate_xgrammar_grammar = config, validate


def _check_support(params: SamplingParams) -> None:
    """Refuse schemas with keywords that xgrammar ignores; vLLM then leaves tool calls free instead of combining both.

    Raises:
        VLLMValidationError: the schema has such a keyword, or is not JSON.
    """
    schema = params.structured_outputs.json if params.structured_outputs else None
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError as error:
            raise VLLMValidationError("Invalid JSON grammar specification.") from error
    if isinstance(schema, dict) and backend_xgrammar.has_xgrammar_unsupported_json_features(schema):
        raise VLLMValidationError("The schema has keywords that xgrammar does not support.")
