"""Sound adapters, and ways to corrupt them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from loramux_loadtests.synthetic_adapters import write_adapter

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
RANK = 8
MODULES = ("q_proj", "v_proj")


def write_sound_adapter(folder: Path, base: Path, seed: int, rank: int = RANK) -> Path:
    """Write a valid adapter."""
    return write_adapter(folder, base, seed=seed, rank=rank, modules=MODULES)


@dataclass
class CandidateAdapter:
    """A sound adapter to be corrupted: its folder, and the name and path for adding it to a server."""

    folder: Path
    base: Path
    outside: Path
    """A folder that servers may not read adapters from."""
    name: str
    path: str

    def change_config(self, **changes: object) -> None:
        """Change keys of the config."""
        path = self.folder / CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    def change_config_text(self, change: Callable[[str], str]) -> None:
        """Change the config's text."""
        path = self.folder / CONFIG
        path.write_text(change(path.read_text()))

    def change_tensors(self, change: Callable[[str, npt.NDArray[Any]], npt.NDArray[Any] | None]) -> None:
        """Replace each tensor by the result of `change`; None removes it."""
        changed = {name: change(name, tensor) for name, tensor in load_file(self.folder / WEIGHTS).items()}
        save_file({name: tensor for name, tensor in changed.items() if tensor is not None}, self.folder / WEIGHTS)

    def rename_tensors(self, old: str, new: str) -> None:
        """Replace a part of all tensor names."""
        tensors = load_file(self.folder / WEIGHTS)
        save_file({name.replace(old, new): tensor for name, tensor in tensors.items()}, self.folder / WEIGHTS)

    def add_tensor(self, name: str) -> None:
        """Add a tensor."""
        tensors = load_file(self.folder / WEIGHTS)
        save_file(tensors | {name: np.ones((RANK, 16), np.float32)}, self.folder / WEIGHTS)

    def fill_tensors(self, value: float, part: str = "lora_") -> None:
        """Set all values of the tensors with `part` in their names."""
        self.change_tensors(lambda name, tensor: np.full_like(tensor, value) if part in name else tensor)

    def resize_tensors(self, factor: float) -> None:
        """Resize the tensors to those for a base with another width."""

        def resized(name: str, tensor: npt.NDArray[Any]) -> npt.NDArray[Any]:
            inner, outer = (1.0, factor) if "lora_A" in name else (factor, 1.0)
            return np.resize(tensor, (int(tensor.shape[0] * inner), int(tensor.shape[1] * outer)))

        self.change_tensors(resized)

    def change_weights(self, change: Callable[[bytes], bytes]) -> None:
        """Change the bytes of the weights file."""
        path = self.folder / WEIGHTS
        path.write_bytes(change(path.read_bytes()))

    def change_header(self, change: Callable[[str], str]) -> None:
        """Change the JSON header of the weights file, and adjust its length."""

        def changed(raw: bytes) -> bytes:
            end = 8 + int.from_bytes(raw[:8], "little")
            text = change(raw[8:end].decode()).encode()
            return len(text).to_bytes(8, "little") + text + raw[end:]

        self.change_weights(changed)

    def move_out(self, leave: Callable[[Path, Path], object] = lambda _here, _there: None) -> Path:
        """Move the folder outside of the allowed folders, and call `leave` to put something in its place."""
        there = self.outside / self.folder.name
        shutil.move(self.folder, there)
        leave(self.folder, there)
        return there

    def link_file(self, name: str) -> None:
        """Move a file outside, and replace it by a symbolic link."""
        self.outside.mkdir(exist_ok=True)
        there = self.outside / f"{self.folder.name}-{name}"
        shutil.move(self.folder / name, there)
        (self.folder / name).symlink_to(there)
