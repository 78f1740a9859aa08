"""The GPUs of this machine, and why one can't run the CUDA engine.

As `machine`, this uses only the standard library and syntax of Python 3.8: the setup script imports it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CUDA_DRIVER = 580
"""Oldest NVIDIA driver that runs CUDA 13, for which vLLM's wheels are built."""
CUDA_CAPABILITY = (7, 5)
"""Lowest compute capability that CUDA 13 supports."""
FIELDS = ("driver_version", "memory.total", "memory.free", "compute_cap", "uuid", "mig.mode.current", "name")
"""Fields that nvidia-smi is asked for. The name is the last one, because it may contain commas."""
PCI_BUS_ORDER = "PCI_BUS_ID"
"""The CUDA_DEVICE_ORDER with which CUDA numbers GPUs as nvidia-smi does; by default, the fastest one is the first."""
WSL_NVIDIA_SMI = "usr/lib/wsl/lib/nvidia-smi"
"""In WSL2, Windows' driver brings its own, in a folder that is not always on PATH."""

_NO_MEMORY_OF_ITS_OWN = re.compile(r"\[?(N/A|Not Supported)\]?")
_UNKNOWN_FIELD = re.compile(r'[Ff]ield "([\w.]+)" is not a valid field')
_MAX_REASON_LENGTH = 200
_MIG = "it is divided into parts (MIG)"


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU, as its driver describes it; None for what the driver does not say."""

    name: str
    memory_bytes: int
    """0 if the driver does not say."""
    driver: int | None
    compute_capability: tuple[int, int] | None = None
    free_bytes: int | None = None
    unified: bool = False
    """Whether its memory is the machine's memory, as on a GB10."""
    uuid: str = ""
    doubt: str | None = None
    """Why nothing can be planned by this description; None if CUDA has this GPU, in this place, with this memory."""

    @property
    def problem(self) -> str | None:
        """Why it can't run the CUDA engine, and how to fix it; None if it can, as far as the driver says."""
        if self.compute_capability is not None and self.compute_capability < CUDA_CAPABILITY:
            lowest = ".".join(map(str, CUDA_CAPABILITY))
            return f"its compute capability is {self._capability}, and CUDA 13 needs {lowest} or higher"
        if self.driver is not None and self.driver < CUDA_DRIVER:
            return f"its driver is {self.driver}, and CUDA 13 needs driver {CUDA_DRIVER} or newer: update the driver"
        return None

    @property
    def properties(self) -> str:
        """Its driver and compute capability, as far as they are known."""
        known = [f"driver {self.driver}"] if self.driver is not None else []
        if self.compute_capability is not None:
            known.append(f"compute capability {self._capability}")
        return ", ".join(known)

    @property
    def _capability(self) -> str:
        return ".".join(map(str, self.compute_capability or ()))


def find_gpus(
    machine_memory: int,
    machine_free: int | None,
    environ: Mapping[str, str] = os.environ,
    root: Path = Path("/"),
) -> tuple[tuple[Gpu, ...], str | None]:
    """Return the NVIDIA GPUs that CUDA_VISIBLE_DEVICES shows, in its order; if there are none, maybe the reason.

    The bytes of the machine's memory stand in for those of a GPU that has none of its own. Takes up to seconds.
    """
    program = _nvidia_smi(environ, root)
    if program is None:
        return (), _undriven_gpu(root)
    listing, fields = _ask(program, environ)
    if fields is None:
        return (), f"`nvidia-smi` fails: {listing}"
    gpus = parse_gpus(listing, fields, machine_memory, machine_free)
    visible = visible_gpus(gpus, environ.get("CUDA_VISIBLE_DEVICES"))
    if gpus and not visible:
        return (), "the variable CUDA_VISIBLE_DEVICES hides all GPUs"
    if len(gpus) > 1 and environ.get("CUDA_DEVICE_ORDER", PCI_BUS_ORDER) != PCI_BUS_ORDER:
        doubt = f"CUDA_DEVICE_ORDER is not {PCI_BUS_ORDER}, so its number is not known"
        visible = tuple(replace(gpu, doubt=doubt) for gpu in visible)
    return visible, None


def parse_gpus(listing: str, fields: Sequence[str], machine_memory: int, machine_free: int | None) -> tuple[Gpu, ...]:
    """Parse nvidia-smi's CSV without header and units; lines with too few cells are no GPUs.

    A cell that has no value, such as `[N/A]`, hides nothing but itself.
    """
    gpus = []
    for line in listing.splitlines():
        cells = [cell.strip() for cell in line.split(",", len(fields) - 1)]
        if len(cells) == len(fields) and all(cells):
            gpus.append(_parse_gpu({field: cells[i] for i, field in enumerate(fields)}, machine_memory, machine_free))
    return tuple(gpus)


def _parse_gpu(cells: Mapping[str, str], machine_memory: int, machine_free: int | None) -> Gpu:
    total = cells.get("memory.total", "")
    memory, free = _mebibytes(total), _mebibytes(cells.get("memory.free", ""))
    unified = _NO_MEMORY_OF_ITS_OWN.fullmatch(total) is not None
    doubt = None if memory or unified else "its driver does not say how much memory it has"
    if cells.get("mig.mode.current") == "Enabled":
        doubt = _MIG
    driver = re.match(r"[0-9]{1,6}", cells.get("driver_version", ""))
    capability = re.fullmatch(r"([0-9]{1,3})\.([0-9]{1,3})", cells.get("compute_cap", ""))
    return Gpu(
        name=cells.get("name", "NVIDIA GPU"),
        memory_bytes=machine_memory if unified else memory or 0,
        driver=int(driver[0]) if driver else None,
        compute_capability=(int(capability[1]), int(capability[2])) if capability else None,
        free_bytes=machine_free if unified else free,
        unified=unified,
        uuid=cells.get("uuid", ""),
        doubt=doubt,
    )


def _mebibytes(cell: str) -> int | None:
    return int(cell) << 20 if re.fullmatch(r"[0-9]{1,9}", cell) else None


def visible_gpus(gpus: Sequence[Gpu], variable: str | None) -> tuple[Gpu, ...]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES shows: CUDA reads it up to the first item that is no GPU."""
    if variable is None:
        return tuple(gpus)
    visible: list[Gpu] = []
    for item in (part.strip() for part in variable.split(",")):
        if item.startswith("MIG-"):  # a part of a GPU: of which one, nvidia-smi does not say here
            return tuple(replace(gpu, doubt=_MIG) for gpu in gpus)
        named = [gpu for gpu in gpus if item.startswith("GPU-") and gpu.uuid.startswith(item)]
        if re.fullmatch(r"[0-9]{1,4}", item) and int(item) < len(gpus):
            named = [gpus[int(item)]]
        if len(named) != 1:
            break
        visible += [gpu for gpu in named if gpu not in visible]
    return tuple(visible)


def _nvidia_smi(environ: Mapping[str, str], root: Path) -> str | None:
    in_wsl = root / WSL_NVIDIA_SMI
    return shutil.which("nvidia-smi", path=environ.get("PATH")) or (str(in_wsl) if in_wsl.exists() else None)


def _ask(program: str, environ: Mapping[str, str]) -> tuple[str, Sequence[str] | None]:
    """Return nvidia-smi's output and its fields; the reason and None if it fails.

    An older one does not know all fields, and refuses the question with the name of one: it is left out then.
    """
    fields = list(FIELDS)
    while True:
        query = [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(query, capture_output=True, timeout=20, check=False, env=dict(environ))
        except (OSError, subprocess.SubprocessError) as error:
            return _one_line(str(error)), None
        if not done.returncode:
            return done.stdout.decode(errors="replace"), fields
        output = (done.stdout + done.stderr).decode(errors="replace")
        unknown = _UNKNOWN_FIELD.search(output)
        if not unknown or unknown[1] not in fields[:-1]:
            return _one_line(output) or f"exit code {done.returncode}", None
        fields.remove(unknown[1])


def _one_line(text: str) -> str:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return "".join(char if char.isprintable() else "?" for char in line[:_MAX_REASON_LENGTH]).rstrip(".")


def _undriven_gpu(root: Path) -> str | None:
    """Return why a GPU that is there has no NVIDIA driver; None if there is no GPU, or one that vLLM can't use."""
    if any(_is_nvidia_gpu(device) for device in root.glob("sys/bus/pci/devices/*")):
        return (
            f"there is an NVIDIA GPU without `nvidia-smi`: install NVIDIA's driver {CUDA_DRIVER} or newer "
            "(in a container, NVIDIA's container toolkit hands the GPU over)"
        )
    if (root / "dev/dxg").exists():
        return f"WSL2 has no NVIDIA GPU: if Windows has one, install NVIDIA's driver {CUDA_DRIVER} or newer in Windows"
    if (root / "dev/kfd").exists():
        return "there is an AMD GPU, and loramux has no engine for ROCm"
    return None


def _is_nvidia_gpu(device: Path) -> bool:
    try:
        vendor, kind = (device / "vendor").read_text().strip(), (device / "class").read_text().strip()
    except (OSError, ValueError):
        return False
    return vendor == "0x10de" and kind.startswith("0x03")  # a display controller
