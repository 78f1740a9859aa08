"""Adapters that must not serve: each a sound one, spoilt in one way in its files, by where it lies or by its name."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.robustness.corrupt import CONFIG, WEIGHTS, Draft, write_sound

MAX_RANK = 16
"""What the servers are started with; an adapter of a higher rank is a bad one."""


def _one_nan(draft: Draft) -> None:
    def spoilt(name: str, tensor: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if "layers.0." in name and "lora_B" in name:
            tensor[-1, -1] = np.nan
        return tensor

    draft.tensors(spoilt)


def _bfloat16_nan(draft: Draft) -> None:
    draft.tensors(lambda _, tensor: np.full(tensor.shape, 0x7FC0, np.uint16))
    draft.header(lambda text: text.replace('"U16"', '"BF16"'))


def _of_rank(draft: Draft, rank: int) -> None:
    shutil.rmtree(draft.folder)
    write_sound(draft.folder, draft.base, 1, rank)


def _overstated(text: str) -> str:
    header = json.loads(text)
    entry = next(value for key, value in header.items() if key != "__metadata__")
    entry["shape"][0] *= 1 << 20
    return json.dumps(header)


def _with_a_key_twice(text: str) -> str:
    name, entry = next(iter(json.loads(text).items()))
    return f"{{{json.dumps(name)}:{json.dumps(entry)},{text[1:]}"


def _overlapping(text: str) -> str:
    """All tensors lie where the first of their size lies, and the file is as long as before."""
    header = {name: entry for name, entry in json.loads(text).items() if name != "__metadata__"}
    first: dict[int, list[int]] = {}
    for entry in header.values():
        start, stop = entry["data_offsets"]
        entry["data_offsets"] = first.setdefault(stop - start, [start, stop])
    return json.dumps(header)


def _sparse(draft: Draft) -> None:
    with (draft.folder / WEIGHTS).open("r+b") as file:
        file.truncate(100 << 30)


def _pipe(draft: Draft) -> None:
    (draft.folder / WEIGHTS).unlink()
    os.mkfifo(draft.folder / WEIGHTS)


def _outside(draft: Draft) -> None:
    draft.path = str(draft.move_out())


def _by_dots(draft: Draft) -> None:
    there = draft.move_out(lambda here, _: here.mkdir())
    draft.path = f"{draft.folder}/{os.path.relpath(there, draft.folder)}"


def _by_link(draft: Draft) -> None:
    draft.move_out(lambda here, there: here.symlink_to(there))


def _called(name: str) -> Callable[[Draft], None]:
    return lambda draft: setattr(draft, "name", name)


def _at(path: str) -> Callable[[Draft], None]:
    return lambda draft: setattr(draft, "path", path)


def _file(name: str, change: Callable[[Path], object]) -> Callable[[Draft], None]:
    def spoil(draft: Draft) -> None:
        change(draft.folder / name)

    return spoil


def _config(**changes: object) -> Callable[[Draft], None]:
    return lambda draft: draft.config(**changes)


BAD: Mapping[str, Callable[[Draft], None]] = {
    "NaN weights": lambda draft: draft.fill(np.nan),
    "one NaN": _one_nan,
    "NaN weights in bfloat16": _bfloat16_nan,
    "infinite weights": lambda draft: draft.fill(np.inf),
    "weights of 1e30": lambda draft: draft.fill(1e30),
    "weights of 100": lambda draft: draft.fill(100.0),
    "lora_alpha of 1e9": _config(lora_alpha=1e9),
    "lora_alpha of NaN": _config(lora_alpha=float("nan")),
    "lora_alpha of -16": _config(lora_alpha=-16),
    "all zeros": lambda draft: draft.fill(0.0),
    "B all zeros": lambda draft: draft.fill(0.0, "lora_B"),
    "r=4, tensors of rank 8": _config(r=4),
    "r=16, tensors of rank 8": _config(r=16),
    "rank over the limit": lambda draft: _of_rank(draft, 2 * MAX_RANK),
    "rank of -1": _config(r=-1),
    "rank as text": _config(r="8"),
    "of a smaller base": lambda draft: draft.resize(0.5),
    "of a larger base": lambda draft: draft.resize(2),
    "only layer 0": lambda draft: draft.tensors(lambda name, tensor: tensor if ".layers.0." in name else None),
    "an extra layer 77": lambda draft: draft.add("base_model.model.model.layers.77.self_attn.q_proj.lora_A.weight"),
    "a module that the base has not": lambda draft: draft.rename("q_proj", "query"),
    "names without PEFT's prefix": lambda draft: draft.rename("base_model.model.", ""),
    "a tensor too many": lambda draft: draft.add("base_model.model.model.extra.lora_A.weight"),
    "A without B": lambda draft: draft.tensors(lambda name, tensor: tensor if "lora_A" in name else None),
    "int8 tensors": lambda draft: draft.tensors(lambda _, tensor: (tensor * 100).astype(np.int8)),
    "PREFIX_TUNING": _config(peft_type="PREFIX_TUNING"),
    "DoRA": _config(use_dora=True),
    "bias": _config(bias="all"),
    "modules_to_save": _config(modules_to_save=["lm_head"]),
    "rank_pattern of other ranks": _config(rank_pattern={"q_proj": 4}),
    "fan_in_fan_out": _config(fan_in_fan_out=True),
    "initialised by PiSSA": _config(init_lora_weights="pissa"),
    "a feature of next year": _config(use_feature_of_next_year=True),
    "target_modules null": _config(target_modules=None),
    "target_modules unknown": _config(target_modules=["query_key_value"]),
    "config is a list": _file(CONFIG, lambda path: path.write_text("[]")),
    "config is no JSON": _file(CONFIG, lambda path: path.write_text("{")),
    "config of 100 MB": lambda draft: draft.text(lambda text: text + " " * (100 << 20)),
    "config nested 100,000 deep": lambda draft: draft.text(lambda text: '{"x": ' + "[" * 100_000 + "," + text[1:]),
    "config with a key twice": lambda draft: draft.text(lambda text: '{"r": 64, ' + text.lstrip()[1:]),
    "config is a symbolic link": lambda draft: draft.link(CONFIG),
    "weights are a symbolic link": lambda draft: draft.link(WEIGHTS),
    "weights are a pipe": _pipe,
    "no config": _file(CONFIG, Path.unlink),
    "no weights": _file(WEIGHTS, Path.unlink),
    "pickle only": _file(WEIGHTS, lambda path: path.rename(path.with_name("adapter_model.bin"))),
    "weights empty": lambda draft: draft.weights(lambda _: b""),
    "weights truncated": lambda draft: draft.weights(lambda raw: raw[: len(raw) // 2]),
    "weights with a tail": lambda draft: draft.weights(lambda raw: raw + b"\0" * 64),
    "weights are garbage": lambda draft: draft.weights(lambda _: bytes(range(256)) * 64),
    "weights in a sparse file of 100 GB": _sparse,
    "a header of 2^60 bytes": lambda draft: draft.weights(lambda raw: (1 << 60).to_bytes(8, "little") + raw[8:]),
    "a header that overstates a shape": lambda draft: draft.header(_overstated),
    "a header whose tensors overlap": lambda draft: draft.header(_overlapping),
    "a header with a key twice": lambda draft: draft.header(_with_a_key_twice),
    "a path outside of the allowed folders": _outside,
    "a path that leaves them by ..": _by_dots,
    "a path that leaves them by a link": _by_link,
    "the path /etc": _at("/etc"),
    "the path of a file": lambda draft: setattr(draft, "path", str(draft.folder / WEIGHTS)),
    "a name with path parts": _called("../../etc/passwd"),
    "a name with a line's end": _called("bad\nX-Admin: yes"),
    "a name like a version's": _called("good@0123456789ab"),
    "a name of 1,000 characters": _called("x" * 1000),
}
"""By what is wrong: what makes a sound adapter so."""
