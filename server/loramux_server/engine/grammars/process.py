"""The grammar process: `python -m loramux_server.engine.grammars.process SOCKET LIMITS` (see `sandbox`).

It reads the pickled configuration of vLLM from standard input, loads the tokenizer once, and forks itself for each
socket that it receives through the control socket. The fork compiles one grammar as the engine will, within limits of
CPU time and memory. The kernel ends the fork when its socket is closed, so it never outlives its client.
"""

import fcntl
import json
import os
import pickle
import resource
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.v1.structured_output import StructuredOutputManager
from vllm.v1.structured_output.request import StructuredOutputRequest

import loramux_server.engine.grammars.backends  # noqa: F401 - each request has its backend, as in the engine
from loramux_server.settings.request_limits import GrammarLimits

SIMULATED_TOKENS = 32
MAX_REASON_CHARACTERS = 500
_NICENESS = 5  # serving goes first


class LimitError(Exception):
    """The grammar exceeds a limit."""


def run(control: socket.socket, limits: GrammarLimits) -> None:
    """Fork for every socket received, until the server closes `control`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the server
    os.nice(_NICENESS)
    with suppress(OSError):  # the kernel ends this process first when memory is short
        Path("/proc/self/oom_score_adj").write_text("1000")
    manager = StructuredOutputManager(pickle.load(sys.stdin.buffer))  # noqa: S301 - the server's own configuration
    manager._use_async_grammar_compilation = False  # a fork has no threads
    for params in ({"json_object": True}, {"json": {"type": "object", "minProperties": 1}}):
        with suppress(Exception):  # warms up what the forks share
            _compile(manager, StructuredOutputsParams(**params), [])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not data:
            return
        if not os.fork():
            _serve(socket.socket(fileno=descriptors[0]), manager, limits)
        os.close(descriptors[0])


def _serve(client: socket.socket, manager: StructuredOutputManager, limits: GrammarLimits) -> None:
    """Answer one request, and exit."""
    try:
        with client, client.makefile("rb") as lines:
            request = json.loads(lines.readline())
            _end_with(client)
            _limit_resources(limits)
            reply = _reply(manager, request, limits)
            fcntl.fcntl(client, fcntl.F_SETFL, 0)
            client.sendall(json.dumps(reply).encode())
    finally:
        os._exit(0)


def _end_with(client: socket.socket) -> None:
    """Have the kernel end this process, by SIGIO, when the other end of the socket is closed."""
    fcntl.fcntl(client, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(client, fcntl.F_SETFL, os.O_ASYNC)
    poll = select.poll()
    poll.register(client, select.POLLRDHUP)
    if poll.poll(0):  # it was closed before
        os._exit(0)


def _limit_resources(limits: GrammarLimits) -> None:
    data = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData"))
    memory = (int(data.split()[1]) << 10) + (limits.memory_mib << 20)
    for kind, limit in ((resource.RLIMIT_DATA, memory), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(kind)
        value = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (value, value))
    signal.setitimer(signal.ITIMER_PROF, limits.cpu_seconds)  # SIGPROF ends the process, also within native code


def _reply(manager: StructuredOutputManager, request: dict[str, Any], limits: GrammarLimits) -> dict[str, Any]:
    params = StructuredOutputsParams(**request["structured_outputs"])
    try:
        grammar = _compile(manager, params, request["stop_token_ids"])
        _simulate(manager, grammar, limits.step_seconds)
    except (MemoryError, LimitError, RecursionError) as error:
        return {"limit": str(error)}
    except Exception as error:  # noqa: BLE001 - the libraries raise anything
        return {"error": (str(error) or type(error).__name__)[:MAX_REASON_CHARACTERS]}
    return {"params": {name: value for name, value in vars(params).items() if value is not None}}


def _compile(manager: StructuredOutputManager, params: StructuredOutputsParams, stop_token_ids: list[int]) -> Any:
    """Check, and choose a backend, as vLLM does for a new request; then compile as its scheduler does."""
    sampling, config = SamplingParams(structured_outputs=params), manager.vllm_config
    sampling._all_stop_token_ids = set(stop_token_ids)
    sampling._validate_structured_outputs(config.model_config, config.structured_outputs_config, manager.tokenizer)
    wanted = StructuredOutputRequest.from_sampling_params(sampling)
    manager.grammar_init(SimpleNamespace(structured_output_request=wanted, sampling_params=sampling, request_id=""))
    if isinstance(wanted.grammar, Exception):
        raise wanted.grammar
    return wanted.grammar


def _simulate(manager: StructuredOutputManager, grammar: Any, step_seconds: float) -> None:
    """Generate a few random tokens, and measure the time that the engine will wait in each step.

    Raises:
        LimitError: a step takes too long.
    """
    rng, bitmask = Random(0), manager.backend.allocate_token_bitmask(1)  # noqa: S311 - no secret
    for _ in range(SIMULATED_TOKENS):
        started = time.thread_time()
        grammar.fill_bitmask(bitmask, 0)
        allowed = _allowed(bitmask.numpy()[0])
        if not len(allowed) or not grammar.accept_tokens("", [int(rng.choice(allowed))]):
            return
        if time.thread_time() - started > step_seconds:
            raise LimitError(f"a step of an answer takes more than {step_seconds:g} s")
        if grammar.is_terminated():
            return


def _allowed(words: "np.ndarray[Any, np.dtype[np.int32]]") -> "np.ndarray[Any, np.dtype[np.intp]]":
    """Return the token ids whose bit is set."""
    return np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little"))


if __name__ == "__main__":
    run(socket.socket(fileno=int(sys.argv[1])), GrammarLimits.model_validate_json(sys.argv[2]))
