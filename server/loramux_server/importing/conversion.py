"""Files of providers that train on other formats than OpenAI's, such as prompt and completion, are converted."""

from pathlib import Path

from loramux_adapters.finetuning.datasets.other_formats.converter import convert_file
from loramux_adapters.finetuning.datasets.other_formats.documents import iter_documents
from loramux_adapters.finetuning.datasets.other_formats.formats import find_format
from loramux_adapters.finetuning.errors import InvalidDataset
from loramux_server.importing.errors import ImportingError
from loramux_server.importing.folder import ImportFolder, StoredFile


def in_openai_format(folder: ImportFolder, file: StoredFile) -> tuple[StoredFile, str | None]:
    """Return the file, converted if its first example is in another format, and then the name of that format.

    Raises:
        ImportingError: an example can't be converted.
    """
    path = folder.path(file.sha256)
    if not _has_other_format(path):
        return file, None
    converted = folder.root / "partial" / f"{file.sha256}.converted"
    converted.unlink(missing_ok=True)  # of a run that was killed
    try:
        report = convert_file(path, converted)
    except InvalidDataset as error:
        reason = str(error).replace(path.name, file.filename)
        raise ImportingError(f"{reason}\nCorrect {path} and convert it with `loramux data convert`.") from error
    return folder.add(converted, file.filename), next(iter(report.formats))


def _has_other_format(path: Path) -> bool:
    """Whether the first example is in a known format other than OpenAI's; other problems are left to the server."""
    try:
        _, document = next(iter(iter_documents(path)))
        found = find_format(document) if isinstance(document, dict) else None
    except (StopIteration, InvalidDataset, ValueError, RecursionError):
        return False
    return found is not None and found.convert is not None
