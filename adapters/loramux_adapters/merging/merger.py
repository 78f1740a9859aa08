"""Merges an adapter into its base in a process of its own; the result is complete and checked, or not there."""

import shutil
import subprocess
import sys
from pathlib import Path

from pydantic import ValidationError

from loramux_adapters.errors import InvalidAdapter, printable
from loramux_adapters.file_lock import FileLock
from loramux_adapters.fsync import fsync_path
from loramux_adapters.merging.request import MODEL_FOLDER, REPORT_FILE, REQUEST_FILE, MergeReport, MergeRequest

_MODULE = "loramux_adapters.merging.process"
_SPARE = 1.1
"""Free space needed, relative to the base's weights."""


def merge(request: MergeRequest, target: Path) -> MergeReport:
    """Merge into the new folder `target`, unless answers of the merged model differ from the adapter's.

    They may differ where the adapter itself has a tie, which rounding decides; `untied` of the report is empty if the
    folder was written. What an interrupted call has left behind, the next one removes.

    Raises:
        InvalidAdapter: the adapter can't be merged into this base.
        FileExistsError: `target` exists, or another call is merging into it.
        OSError: the disk is too small, or can't be written.
    """
    if target.exists():
        raise FileExistsError(f"{target} exists; expected a new folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    _check_space(request, target.parent)
    work = target.with_name(f".{target.name}.merging")
    work.mkdir(exist_ok=True)
    lock = FileLock(work, folder=True)
    if not lock.acquire(blocking=False):
        raise FileExistsError(f"{target} is being made by another merge")
    with lock:
        try:
            _clear(work)
            report = _run(request, work, lock.descriptor)
            if not report.untied:
                _flush(work / MODEL_FOLDER)
                (work / MODEL_FOLDER).rename(target)
                fsync_path(target.parent)
            return report
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _clear(work: Path) -> None:
    """Remove what an interrupted call has left in its folder."""
    for path in work.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _run(request: MergeRequest, work: Path, lock: int) -> MergeReport:
    (work / REQUEST_FILE).write_text(request.model_dump_json())
    done = subprocess.run(
        [sys.executable, "-m", _MODULE, str(work)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=(lock,),  # held as long as anything writes into the folder
        check=False,
    )
    try:
        report = MergeReport.model_validate_json((work / REPORT_FILE).read_bytes())
    except (OSError, ValidationError):
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = printable(lines[-1]) if lines and done.returncode > 0 else "it takes more memory than there is"
        raise InvalidAdapter(f"can't be merged: {reason}", where=request.adapter.name) from None
    if report.error:
        raise InvalidAdapter(report.error, where=request.adapter.name)
    return report


def _check_space(request: MergeRequest, folder: Path) -> None:
    needed = int(_SPARE * sum(path.stat().st_size for path in request.base.glob("*.safetensors")))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(f"the merged model needs about {needed / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB free")


def _flush(folder: Path) -> None:
    for path in (*folder.iterdir(), folder):
        path.chmod(0o755 if path == folder else 0o644)  # safetensors creates files private
        fsync_path(path)
