"""Lists a provider's fine-tuning jobs and fine-tuned models, and downloads the jobs' files."""

from collections.abc import Callable, Iterable
from typing import Any

from openai import OpenAI
from pydantic import ValidationError

from loramux_server.importing.downloads import download
from loramux_server.importing.errors import ContentGoneError, ProviderError
from loramux_server.importing.folder import ImportFolder, Manifest, UnreadableJob, merge_jobs
from loramux_server.importing.provider_client import translated_errors
from loramux_server.importing.providers import Provider
from loramux_server.importing.source_job import SUCCEEDED, SourceJob

Report = Callable[[str], None]
"""Is told what happens, in a sentence."""


def list_jobs(provider: Provider, client: OpenAI, base_url: str, old: Manifest) -> Manifest:
    """Return the manifest with the jobs and models that the provider lists.

    Raises:
        ProviderError: the provider can't be reached, or refuses.
    """
    jobs: dict[str, SourceJob] = {}
    unreadable = []
    with translated_errors(provider.title):
        for entry in provider.list_jobs(client):
            try:
                job = SourceJob.parse(entry)
                jobs[job.id] = job.model_copy(update={"checkpoints": _count_checkpoints(provider, client, job)})
            except ValidationError as error:
                unreadable.append(UnreadableJob(id=str(entry.get("id"))[:80], reason=_reason(error)))
        answering = _fine_tuned_models(client)
    merged = merge_jobs(old, jobs)
    known = {job.fine_tuned_model for job in merged}
    return old.model_copy(
        update={
            "provider": provider.name,
            "base_url": base_url,
            "jobs": merged,
            "unreadable": tuple(unreadable),
            "answering": answering if provider.answers_by_model else (),
            "unlisted": tuple(name for name in answering if name not in known and ":ckpt-step-" not in name),
        }
    )


def _count_checkpoints(provider: Provider, client: OpenAI, job: SourceJob) -> int:
    if provider.name not in {"openai", "azure"} or job.status != SUCCEEDED:
        return 0
    try:
        with translated_errors(provider.title):
            return sum(1 for _ in client.fine_tuning.jobs.checkpoints.list(job.id, limit=100))
    except ContentGoneError:
        return 0


def _fine_tuned_models(client: OpenAI) -> tuple[str, ...]:
    """The fine-tuned models that the provider lists: OpenAI's and Mistral's names begin with `ft:`."""
    found: Any = client.get("/models", cast_to=object)
    models = found.get("data") if isinstance(found, dict) else found
    names = [str(model.get("id")) for model in models or () if isinstance(model, dict)]
    return tuple(name for name in names if name.startswith("ft:") and name.isprintable())


def _reason(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def download_files(
    provider: Provider,
    client: OpenAI,
    folder: ImportFolder,
    manifest: Manifest,
    wanted: Iterable[SourceJob],
    report: Report,
) -> Manifest:
    """Download the files of these jobs that the folder does not have; those that are gone are noted.

    A file that can't be downloaded now is left for the next run.
    """
    for file_id in dict.fromkeys(file_id for job in wanted for file_id in job.file_ids):
        stored = manifest.files.get(file_id)
        if (stored and folder.path(stored.sha256).is_file()) or file_id in manifest.gone:
            continue
        try:
            found = download(client, provider.title, file_id, folder)
            manifest = manifest.model_copy(update={"files": {**manifest.files, file_id: found}})
            report(f"downloaded {found.filename} ({found.bytes:,} bytes)")
        except ContentGoneError as error:
            manifest = manifest.model_copy(update={"gone": {**manifest.gone, file_id: str(error)}})
            report(f"{file_id} is gone: {error}")
        except ProviderError as error:
            report(f"{file_id} is not downloaded yet: {error}")
            continue
        folder.write(manifest)
    return manifest
