"""Adapters that must be rejected: sound ones, each corrupted in one way, in its files, its path or its name."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.robustness.corrupt import CONFIG, WEIGHTS, CandidateAdapter, write_sound_adapter

MAX_RANK = 16
"""The servers' maximum rank; adapters with a higher rank are bad."""


def _one_nan(candidate: CandidateAdapter) -> None:
    def corrupted(name: str, tensor: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if "layers.0." in name and "lora_B" in name:
            tensor[-1, -1] = np.nan
        return tensor

    candidate.change_tensors(corrupted)


def _bfloat16_nan(candidate: CandidateAdapter) -> None:
    candidate.change_tensors(lambda _, tensor: np.full(tensor.shape, 0x7FC0, np.uint16))
    candidate.change_header(lambda text: text.replace('"U16"', '"BF16"'))


def _with_rank(candidate: CandidateAdapter, rank: int) -> None:
    shutil.rmtree(candidate.folder)
    write_sound_adapter(candidate.folder, candidate.base, 1, rank)


def _overstated_shape(text: str) -> str:
    header = json.loads(text)
    entry = next(value for key, value in header.items() if key != "__metadata__")
    entry["shape"][0] *= 1 << 20
    return json.dumps(header)


def _with_a_key_twice(text: str) -> str:
    name, entry = next(iter(json.loads(text).items()))
    return f"{{{json.dumps(name)}:{json.dumps(entry)},{text[1:]}"


def _overlapping_tensors(text: str) -> str:
    """Give all tensors of equal size the same offsets; the file keeps its length."""
    header = {name: entry for name, entry in json.loads(text).items() if name != "__metadata__"}
    first: dict[int, list[int]] = {}
    for entry in header.values():
        start, stop = entry["data_offsets"]
        entry["data_offsets"] = first.setdefault(stop - start, [start, stop])
    return json.dumps(header)


def _sparse_weights(candidate: CandidateAdapter) -> None:
    with (candidate.folder / WEIGHTS).open("r+b") as file:
        file.truncate(100 << 30)


def _weights_as_pipe(candidate: CandidateAdapter) -> None:
    (candidate.folder / WEIGHTS).unlink()
    os.mkfifo(candidate.folder / WEIGHTS)


def _moved_outside(candidate: CandidateAdapter) -> None:
    candidate.path = str(candidate.move_out())


def _outside_by_dots(candidate: CandidateAdapter) -> None:
    there = candidate.move_out(lambda here, _: here.mkdir())
    candidate.path = f"{candidate.folder}/{os.path.relpath(there, candidate.folder)}"


def _outside_by_link(candidate: CandidateAdapter) -> None:
    candidate.move_out(lambda here, there: here.symlink_to(there))


def _with_name(name: str) -> Callable[[CandidateAdapter], None]:
    return lambda candidate: setattr(candidate, "name", name)


def _with_path(path: str) -> Callable[[CandidateAdapter], None]:
    return lambda candidate: setattr(candidate, "path", path)


def _with_file(name: str, change: Callable[[Path], object]) -> Callable[[CandidateAdapter], None]:
    def corrupt(candidate: CandidateAdapter) -> None:
        change(candidate.folder / name)

    return corrupt


def _with_config(**changes: object) -> Callable[[CandidateAdapter], None]:
    return lambda candidate: candidate.change_config(**changes)


BAD_ADAPTERS: Mapping[str, Callable[[CandidateAdapter], None]] = {
    "NaN weights": lambda candidate: candidate.fill_tensors(np.nan),
    "one NaN": _one_nan,
    "NaN weights in bfloat16": _bfloat16_nan,
    "infinite weights": lambda candidate: candidate.fill_tensors(np.inf),
    "weights of 1e30": lambda candidate: candidate.fill_tensors(1e30),
    "weights of 100": lambda candidate: candidate.fill_tensors(100.0),
    "lora_alpha of 1e9": _with_config(lora_alpha=1e9),
    "lora_alpha of NaN": _with_config(lora_alpha=float("nan")),
    "lora_alpha of -16": _with_config(lora_alpha=-16),
    "all zeros": lambda candidate: candidate.fill_tensors(0.0),
    "B all zeros": lambda candidate: candidate.fill_tensors(0.0, "lora_B"),
    "r=4, tensors of rank 8": _with_config(r=4),
    "r=16, tensors of rank 8": _with_config(r=16),
    "rank over the limit": lambda candidate: _with_rank(candidate, 2 * MAX_RANK),
    "rank of -1": _with_config(r=-1),
    "rank as text": _with_config(r="8"),
    "of a smaller base": lambda candidate: candidate.resize_tensors(0.5),
    "of a larger base": lambda candidate: candidate.resize_tensors(2),
    "only layer 0": lambda candidate: candidate.change_tensors(
        lambda name, tensor: tensor if ".layers.0." in name else None
    ),
    "an extra layer 77": lambda candidate: candidate.add_tensor(
        "base_model.model.model.layers.77.self_attn.q_proj.lora_A.weight"
    ),
    "a module that the base lacks": lambda candidate: candidate.rename_tensors("q_proj", "query"),
    "tensors of a vision tower": lambda candidate: candidate.rename_tensors("model.model.", "model.vision_tower."),
    "an extra tensor": lambda candidate: candidate.add_tensor("base_model.model.model.extra.lora_A.weight"),
    "A without B": lambda candidate: candidate.change_tensors(
        lambda name, tensor: tensor if "lora_A" in name else None
    ),
    "int8 tensors": lambda candidate: candidate.change_tensors(lambda _, tensor: (tensor * 100).astype(np.int8)),
    "PREFIX_TUNING": _with_config(peft_type="PREFIX_TUNING"),
    "DoRA": _with_config(use_dora=True),
    "bias": _with_config(bias="all"),
    "modules_to_save": _with_config(modules_to_save=["lm_head"]),
    "rank_pattern of other ranks": _with_config(rank_pattern={"q_proj": 4}),
    "an expression that never ends": _with_config(rank_pattern={r"(.*.*.*.*)*(.+)+(a|aa)+$x": 8}),
    "an expression that matches nothing": _with_config(target_modules="q_proj"),
    "fan_in_fan_out": _with_config(fan_in_fan_out=True),
    "initialised by PiSSA": _with_config(init_lora_weights="pissa"),
    "a feature of next year": _with_config(use_feature_of_next_year=True),
    "target_modules null": _with_config(target_modules=None),
    "target_modules unknown": _with_config(target_modules=["query_key_value"]),
    "config is a list": _with_file(CONFIG, lambda path: path.write_text("[]")),
    "config is not JSON": _with_file(CONFIG, lambda path: path.write_text("{")),
    "config of 100 MB": lambda candidate: candidate.change_config_text(lambda text: text + " " * (100 << 20)),
    "config nested 100,000 deep": lambda candidate: candidate.change_config_text(
        lambda text: '{"x": ' + "[" * 100_000 + "," + text[1:]
    ),
    "config with a key twice": lambda candidate: candidate.change_config_text(
        lambda text: '{"r": 64, ' + text.lstrip()[1:]
    ),
    "config is a symbolic link": lambda candidate: candidate.link_file(CONFIG),
    "weights are a symbolic link": lambda candidate: candidate.link_file(WEIGHTS),
    "weights are a pipe": _weights_as_pipe,
    "no config": _with_file(CONFIG, Path.unlink),
    "no weights": _with_file(WEIGHTS, Path.unlink),
    "pickle only": _with_file(WEIGHTS, lambda path: path.rename(path.with_name("adapter_model.bin"))),
    "weights empty": lambda candidate: candidate.change_weights(lambda _: b""),
    "weights truncated": lambda candidate: candidate.change_weights(lambda raw: raw[: len(raw) // 2]),
    "weights with a tail": lambda candidate: candidate.change_weights(lambda raw: raw + b"\0" * 64),
    "weights are garbage": lambda candidate: candidate.change_weights(lambda _: bytes(range(256)) * 64),
    "weights in a sparse file of 100 GB": _sparse_weights,
    "a header of 2^60 bytes": lambda candidate: candidate.change_weights(
        lambda raw: (1 << 60).to_bytes(8, "little") + raw[8:]
    ),
    "a header that overstates a shape": lambda candidate: candidate.change_header(_overstated_shape),
    "a header whose tensors overlap": lambda candidate: candidate.change_header(_overlapping_tensors),
    "a header with a key twice": lambda candidate: candidate.change_header(_with_a_key_twice),
    "a path outside of the allowed folders": _moved_outside,
    "a path that leaves them by ..": _outside_by_dots,
    "a path that leaves them by a link": _outside_by_link,
    "the path /etc": _with_path("/etc"),
    "the path of a file": lambda candidate: setattr(candidate, "path", str(candidate.folder / WEIGHTS)),
    "a name with path parts": _with_name("../../etc/passwd"),
    "a name with a line break": _with_name("bad\nX-Admin: yes"),
    "a name like a version's": _with_name("good@0123456789ab"),
    "a name of 1,000 characters": _with_name("x" * 1000),
}
"""Functions that corrupt a sound adapter, by the name of the defect."""
