"""Adapters that must not serve: which get in, and whom they harm, at loramux and at stock vLLM."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from loramux_loadtests.client import Client
from loramux_loadtests.report import Finding, Report
from loramux_loadtests.servers import (
    RunningServer,
    ServerFailedError,
    ServerSpec,
    Setup,
    loramux,
    register,
    running,
    stock,
)
from loramux_loadtests.statistics import spread
from loramux_loadtests.steps import Steps
from loramux_loadtests.synthetic import write_adapter

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
GOOD = "good"
PROMPTS = ("The capital of France is", "Count: one two three", "Write a short poem about rain.")
TOKENS = 12

Tensors = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Draft:
    """A sound adapter in `folder`, to be spoilt."""

    folder: Path

    def config(self, **changes: object) -> None:
        """Change keys of the config."""
        path = self.folder / CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    def write_config(self, text: str) -> None:
        """Put another text in the config's place."""
        (self.folder / CONFIG).write_text(text)

    def tensors(self, change: Callable[[Tensors], Tensors | None]) -> None:
        """Change the weights, in place or by returning others."""
        tensors = load_file(self.folder / WEIGHTS)
        save_file(change(tensors) or tensors, self.folder / WEIGHTS)

    def fill(self, value: float, part: str = "lora_A") -> None:
        """Set all of one part's values."""

        def filled(tensors: Tensors) -> None:
            for name, tensor in tensors.items():
                if part in name:
                    tensor[...] = value

        self.tensors(filled)

    def weights(self, change: Callable[[bytes], bytes]) -> None:
        """Change the weights' file byte for byte."""
        path = self.folder / WEIGHTS
        path.write_bytes(change(path.read_bytes()))

    def header(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change what the weights' file says of itself."""

        def changed(raw: bytes) -> bytes:
            end = 8 + int.from_bytes(raw[:8], "little")
            header = json.loads(raw[8:end])
            change(header)
            text = json.dumps(header).encode()
            return len(text).to_bytes(8, "little") + text + raw[end:]

        self.weights(changed)


def _narrower(tensors: Tensors) -> Tensors:
    return {name: np.ascontiguousarray(t[:, :-64] if "lora_A" in name else t) for name, t in tensors.items()}


def _renamed(old: str, new: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name.replace(old, new): tensor for name, tensor in tensors.items()}


def _extra(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {name: np.zeros((4, 4), np.float32)}


def _doubled(raw: bytes) -> bytes:
    """The header's first key twice, as no library writes it."""
    end = 8 + int.from_bytes(raw[:8], "little")
    text = b'{"__metadata__":{},' + raw[9:end]
    text = text[:19] + b'"__metadata__":{},' + text[19:]
    return len(text).to_bytes(8, "little") + text + raw[end:]


def _overstated(header: dict[str, Any]) -> None:
    entry = next(value for key, value in header.items() if key != "__metadata__")
    entry["shape"][0] *= 1 << 20


def _sparse(draft: Draft) -> None:
    with (draft.folder / WEIGHTS).open("r+b") as file:
        file.truncate(100 << 30)


def _pickled(draft: Draft) -> None:
    (draft.folder / WEIGHTS).rename(draft.folder / "adapter_model.bin")


def _linked(draft: Draft) -> None:
    (draft.folder / CONFIG).unlink()
    (draft.folder / CONFIG).symlink_to("/etc/passwd")


CASES: Mapping[str, Callable[[Draft], None]] = {
    "NaN weights": lambda draft: draft.fill(np.nan),
    "infinite weights": lambda draft: draft.fill(np.inf),
    "weights of 1e30": lambda draft: draft.fill(1e30),
    "lora_alpha of 1e9": lambda draft: draft.config(lora_alpha=1e9),
    "lora_alpha of NaN": lambda draft: draft.config(lora_alpha=float("nan")),
    "all zeros": lambda draft: draft.fill(0.0, "lora_"),
    "B all zeros": lambda draft: draft.fill(0.0, "lora_B"),
    "r=4, tensors of rank 8": lambda draft: draft.config(r=4, lora_alpha=8),
    "r=16, tensors of rank 8": lambda draft: draft.config(r=16),
    "of a base with other widths": lambda draft: draft.tensors(_narrower),
    "an extra layer 77": lambda draft: draft.tensors(_renamed("layers.0.", "layers.77.")),
    "a module name that the base has not": lambda draft: draft.tensors(_renamed("q_proj", "query")),
    "names without PEFT's prefix": lambda draft: draft.tensors(_renamed("base_model.model.", "")),
    "a tensor too many": lambda draft: draft.tensors(_extra("base_model.model.model.extra.lora_A.weight")),
    "half of the pairs missing": lambda draft: draft.tensors(
        lambda tensors: {name: tensor for name, tensor in tensors.items() if "lora_B" not in name}
    ),
    "int8 tensors": lambda draft: draft.tensors(
        lambda tensors: {name: (tensor * 100).astype(np.int8) for name, tensor in tensors.items()}
    ),
    "PREFIX_TUNING": lambda draft: draft.config(peft_type="PREFIX_TUNING"),
    "DoRA": lambda draft: draft.config(use_dora=True),
    "bias": lambda draft: draft.config(bias="all"),
    "modules_to_save": lambda draft: draft.config(modules_to_save=["lm_head"]),
    "target_modules null": lambda draft: draft.config(target_modules=None),
    "target_modules unknown": lambda draft: draft.config(target_modules=["nothing"]),
    "rank over the limit": lambda draft: draft.config(r=512),
    "rank of -1": lambda draft: draft.config(r=-1),
    "rank as text": lambda draft: draft.config(r="8; drop"),
    "config is a list": lambda draft: draft.write_config("[]"),
    "config is no JSON": lambda draft: draft.write_config("{"),
    "config of 100 MB": lambda draft: draft.write_config(" " * (100 << 20) + "{}"),
    "config nested 100,000 deep": lambda draft: draft.write_config("[" * 100_000),
    "config is a symbolic link": _linked,
    "no config": lambda draft: (draft.folder / CONFIG).unlink(),
    "no weights": lambda draft: (draft.folder / WEIGHTS).unlink(),
    "weights empty": lambda draft: draft.weights(lambda _: b""),
    "weights truncated": lambda draft: draft.weights(lambda raw: raw[: len(raw) // 2]),
    "weights with a tail": lambda draft: draft.weights(lambda raw: raw + b"\0" * 64),
    "weights are garbage": lambda draft: draft.weights(lambda _: bytes(range(256)) * 64),
    "a header of 2^60 bytes": lambda draft: draft.weights(lambda raw: (1 << 60).to_bytes(8, "little") + raw[8:]),
    "a header that overstates a shape": lambda draft: draft.header(_overstated),
    "a header with a key twice": lambda draft: draft.weights(_doubled),
    "a sparse file of 100 GB": _sparse,
    "pickle only": _pickled,
}


async def bad(setup: Setup, scratch: Path, steps: Steps) -> Report:
    """Offer every case to both servers: how many got in, and after how many others were answered otherwise."""
    good = write_adapter(scratch / "adapters" / GOOD, setup.base, seed=0, rank=8, modules=("q_proj", "v_proj"))
    environment = {**setup.environment, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    engine = {**setup.engine, "max_loras": 2, "max_cpu_loras": 4}
    with_good = replace(setup, adapters={GOOD: good}, environment=environment, engine=engine)
    steps.expect(2 * len(CASES))
    rows: list[dict[str, Any]] = []
    for name, spec in (("loramux", lambda: loramux(with_good, scratch / "data")), ("stock", lambda: stock(with_good))):
        rows += await _offered(name, spec, with_good, scratch, steps)
    findings = []
    for name in ("loramux", "stock"):
        mine = [row for row in rows if row["server"] == name]
        goal = 0.0 if name == "loramux" else None
        for key, words in (("got_in", "bad adapters that got in"), ("harmed", "cases that harmed other requests")):
            count = spread([float(sum(row[key] for row in mine))])
            findings.append(Finding(f"{name}: {words}, of {len(CASES)}", count, "cases", at_most=goal))
    stock_in = [row["case"] for row in rows if row["server"] == "stock" and row["got_in"]]
    stock_harm = [row["case"] for row in rows if row["server"] == "stock" and row["harmed"]]
    explanation = (
        "Got in: accepted, and a request for it answered with 200. Harmed: afterwards the base or a good adapter "
        "answered otherwise than before, or not at all. "
        f"Into stock vLLM got: {', '.join(stock_in) or 'none'}. "
        f"There others were harmed by: {', '.join(stock_harm) or 'none'}."
    )
    return Report("Bad adapters", explanation, findings, engine, rows)


async def _offered(
    name: str, spec: Callable[[], ServerSpec], setup: Setup, scratch: Path, steps: Steps
) -> list[dict[str, Any]]:
    """The rows of one server, which is started again whenever a case brought it down."""
    rows: list[dict[str, Any]] = []
    waiting = list(CASES)
    while waiting:
        try:
            async with running(spec(), scratch / f"{name}.log") as server, Client(server.url, timeout=60) as client:
                if name == "loramux":
                    await register(server.url, setup.adapters)
                before = await _answers(client, setup)
                while waiting:
                    case = waiting.pop(0)
                    steps.begin(f"{name}: {case}")
                    got_in = await _offer(name, server, client, _spoilt(case, setup, scratch / name / str(len(rows))))
                    harmed = await _answers(client, setup) != before
                    rows.append({"server": name, "case": case, "got_in": got_in, "harmed": harmed})
                    if harmed:
                        break  # what follows is to be seen by itself
        except ServerFailedError:
            if not rows:
                raise
    return rows


def _spoilt(case: str, setup: Setup, folder: Path) -> Path:
    draft = Draft(write_adapter(folder, setup.base, seed=1, rank=8, modules=("q_proj", "v_proj")))
    CASES[case](draft)
    return draft.folder


async def _offer(name: str, server: RunningServer, client: Client, folder: Path) -> bool:
    """Whether the server took the adapter and answered a request for it."""
    body: dict[str, Any] = {"lora_name": "bad", "lora_path": str(folder)}
    path = "/v1/load_lora_adapter"
    if name == "loramux":
        path, body = "/admin/adapters", {"name": "bad", "source": {"type": "folder", "path": str(folder)}}
    try:
        async with aiohttp.ClientSession(server.url, timeout=aiohttp.ClientTimeout(total=60)) as session:
            async with session.post(path, json=body) as response:
                accepted = response.status < 300
            reply = await client.chat("bad", [{"role": "user", "content": PROMPTS[0]}], max_tokens=TOKENS)
            if accepted and name != "loramux":
                await (await session.post("/v1/unload_lora_adapter", json={"lora_name": "bad"})).read()
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False
    return accepted and reply.ok


async def _answers(client: Client, setup: Setup) -> list[str | None]:
    """What the base and the good adapter say, None where they fail."""
    replies = [
        await client.chat(model, [{"role": "user", "content": prompt}], max_tokens=TOKENS)
        for model in (setup.base.name, GOOD)
        for prompt in PROMPTS
    ]
    return [reply.text if reply.ok else None for reply in replies]
