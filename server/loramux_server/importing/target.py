"""The loramux server that imported jobs are trained on, asked over its HTTP API.

The server itself knows what was imported: its jobs carry the provider's id of theirs in their metadata, and its files a
part of their content's hash in their names. So an import that was killed finds all that it did, and does nothing twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import SecretStr

from loramux_server.importing.errors import ContentGoneError, ProviderError
from loramux_server.importing.folder import StoredFile
from loramux_server.importing.provider_client import make_client, translated_errors

IMPORTER, IMPORTED_FROM, IMPORTED_MODEL = "importer", "imported_from", "imported_model"
"""Keys of a job's metadata: that it was imported, the provider's id of it, and the old model's name."""
_IMPORTER = "loramux"
FAILED = frozenset({"failed", "cancelled"})
ENDED = FAILED | {"succeeded"}

Job = Mapping[str, Any]
"""A job as the server's API returns it."""


@dataclass(frozen=True)
class ImportedJob:
    """The newest job on the server of one job of the provider, and how many of them failed before it or with it."""

    job: Job
    failures: int


class TargetServer:
    """A loramux server.

    Raises:
        ProviderError: it can't be reached, or refuses the key (every method).
        RefusedError: it refuses the request, in its own words (every method).
    """

    def __init__(self, url: str, key: str | None) -> None:
        self.url, self.key = url.rstrip("/").removesuffix("/v1"), key
        self._title = f"the loramux server at {self.url}"
        self._client = make_client(f"{self.url}/v1", SecretStr(key) if key else None)
        # A full queue is no reason to send the same again for a minute.
        self._once = self._client.with_options(max_retries=0)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def base_model(self) -> str:
        """Return the name of the base.

        Raises:
            ProviderError: what answers is no loramux server.
        """
        with translated_errors(self._title, ours=True):
            found: Any = self._client.get("/models", cast_to=object)
        for model in (found.get("data") or ()) if isinstance(found, dict) else ():
            if isinstance(model, dict) and model.get("parent", "") is None:
                return str(model["id"])
        raise ProviderError(f"{self._title} lists no base model: start one with `loramux serve`, or set --url")

    def upload(self, path: Path, file: StoredFile) -> str:
        """Upload a training file unless the server has it, and return its id there.

        Raises:
            RefusedError: a line is wrong; the message has lines and reasons.
        """
        stem = Path(file.filename).stem[:100] or "file"
        name = f"{stem}-{file.sha256[:12]}.jsonl"
        with translated_errors(self._title, ours=True):
            for found in self._client.files.list(purpose="fine-tune"):
                if found.filename == name and found.bytes == file.bytes:
                    return found.id
            with path.open("rb") as content:
                return self._client.files.create(file=(name, content), purpose="fine-tune").id

    def estimate(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the server's plan of a job: its files' reports, recipe, time and cost."""
        return self._ask("POST", "/admin/fine_tuning/estimate", body)

    def imported(self) -> Mapping[str, ImportedJob]:
        """Return the imported jobs by the provider's ids of theirs."""
        found: dict[str, ImportedJob] = {}
        with translated_errors(self._title, ours=True):
            for entry in self._client.fine_tuning.jobs.list(limit=100, metadata={IMPORTER: _IMPORTER}):
                job: Any = entry.to_dict(mode="json")
                source = str((job.get("metadata") or {}).get(IMPORTED_FROM))
                newest, failures = found.get(source), int(job["status"] in FAILED)
                found[source] = ImportedJob(
                    newest.job if newest else job, failures + (newest.failures if newest else 0)
                )
        return found

    def create(self, body: Mapping[str, Any], source: str, name: str, attempt: int) -> Job:
        """Create a job for the provider's job `source`; the same attempt is never made twice.

        Raises:
            QueueFullError: too many jobs are waiting.
        """
        kept = dict(list((body.get("metadata") or {}).items())[:13])
        ours = {IMPORTER: _IMPORTER, IMPORTED_FROM: source, IMPORTED_MODEL: name[:512]}
        headers = {"Idempotency-Key": f"import {source} {attempt}"}
        with translated_errors(self._title, ours=True):
            found: Any = self._once.post(
                "/fine_tuning/jobs",
                body={**body, "metadata": kept | ours},
                cast_to=object,
                options={"headers": headers},
            )
        return dict(found)

    def alias(self, name: str) -> str | None:
        """Return what a model alias points at; None if there is none."""
        try:
            return str(self._ask("GET", f"/admin/aliases/{name}").get("target"))
        except ContentGoneError:
            return None

    def set_alias(self, name: str, target: str) -> None:
        """Point a model alias at a model."""
        self._ask("PUT", f"/admin/aliases/{name}", {"target": target})

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        url = self.url + quote(path, safe="/")
        with translated_errors(self._title, ours=True):
            if method == "GET":
                found: Any = self._client.get(url, cast_to=object)
            else:
                send = self._client.put if method == "PUT" else self._client.post
                found = send(url, body=body, cast_to=object)
        return found if isinstance(found, dict) else {}
