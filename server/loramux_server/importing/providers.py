"""The providers whose fine-tuning jobs can be imported, and what their job lists look like.

Each list is turned into the form of OpenAI's API. Only documented fields are read:

- OpenAI: https://platform.openai.com/docs/api-reference/fine-tuning/list
- Azure: the same protocol, at `https://RESOURCE.openai.azure.com/openai/v1/`:
  https://learn.microsoft.com/azure/foundry/openai/api-version-lifecycle. Azure answers by the names of deployments,
  which its jobs do not have. Only its management API lists deployments, for which the resource's key is not enough
  (https://learn.microsoft.com/rest/api/cognitiveservices/accountmanagement/deployments/list): the user names them.
- Together: `GET /fine-tunes` (FinetuneResponseTruncated): https://docs.together.ai/reference/get-fine-tunes
- Mistral: `GET /v1/fine_tuning/jobs`: https://docs.mistral.ai/api/#tag/fine-tuning
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from openai import OpenAI

PAGE_SIZE = 100
_MAX_PAGES = 10_000
_TOGETHER_STATES = {"completed": "succeeded", "user_error": "failed", "error": "failed"}
_MISTRAL_STATES = {"SUCCESS": "succeeded", "FAILED_VALIDATION": "failed", "STARTED": "running", "VALIDATED": "queued"}

ListJobs = Callable[[OpenAI], Iterator[Mapping[str, Any]]]


@dataclass(frozen=True)
class Provider:
    """A provider: where its API is, which variable has the key, and how its jobs are listed."""

    name: str
    title: str
    base_url: str | None
    """None if each customer has an own one."""
    key_variable: str
    list_jobs: ListJobs
    url_variable: str | None = None
    """The environment variable of the provider's own client for another URL."""
    answers_by_model: bool = True
    """Whether a fine-tuned model is asked by the name that its job has."""


def _list_openai(client: OpenAI) -> Iterator[Mapping[str, Any]]:
    for job in client.fine_tuning.jobs.list(limit=PAGE_SIZE):
        yield job.to_dict(mode="json")


def _list_together(client: OpenAI) -> Iterator[Mapping[str, Any]]:
    yield from map(_from_together, _objects(client.get("/fine-tunes", cast_to=object)))


def _from_together(job: Mapping[str, Any]) -> Mapping[str, Any]:
    method: Any = job.get("training_method") or {}
    is_dpo = isinstance(method, dict) and method.get("method") == "dpo"
    chosen = {"n_epochs": job.get("n_epochs"), "batch_size": job.get("batch_size")}
    settings = {"hyperparameters": chosen | ({"beta": method.get("dpo_beta")} if is_dpo else {})}
    kind = "dpo" if is_dpo else "supervised"
    return {
        "id": job.get("id"),
        "status": _state(job, _TOGETHER_STATES),
        "model": job.get("model"),
        "fine_tuned_model": job.get("model_output_name"),
        "training_file": job.get("training_file"),
        "validation_file": job.get("validation_file") or None,
        "suffix": job.get("suffix"),
        "seed": job.get("random_seed"),
        "method": {"type": kind, kind: settings},
    }


def _list_mistral(client: OpenAI) -> Iterator[Mapping[str, Any]]:
    for page in range(_MAX_PAGES):
        query = {"page": page, "page_size": PAGE_SIZE}
        found = _objects(client.get("/fine_tuning/jobs", cast_to=object, options={"params": query}))
        yield from map(_from_mistral, found)
        if len(found) < PAGE_SIZE:
            return


def _from_mistral(job: Mapping[str, Any]) -> Mapping[str, Any]:
    training, validation = (job.get(name) or [] for name in ("training_files", "validation_files"))
    chosen: Any = job.get("hyperparameters") or {}
    kind = "supervised" if job.get("job_type") in {None, "completion"} else str(job["job_type"])
    return {
        "id": job.get("id"),
        "created_at": job.get("created_at"),
        "status": _state(job, _MISTRAL_STATES),
        "model": job.get("model"),
        "fine_tuned_model": job.get("fine_tuned_model"),
        "training_file": next(iter(training), None),
        "more_training_files": training[1:],
        "validation_file": next(iter(validation), None),
        "suffix": job.get("suffix"),
        "method": {"type": kind},
        "hyperparameters": {"n_epochs": _whole(chosen.get("epochs"))} if isinstance(chosen, dict) else None,
    }


def _state(job: Mapping[str, Any], states: Mapping[str, str]) -> str:
    status = str(job.get("status"))
    return states.get(status, status.lower())


def _whole(epochs: Any) -> int | None:
    """Mistral's epochs may be fractions; at least one is trained."""
    return max(1, round(epochs)) if isinstance(epochs, int | float) else None


def _objects(page: Any) -> list[Mapping[str, Any]]:
    """The objects of a page."""
    found = page.get("data") if isinstance(page, dict) else page
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


PROVIDERS: Mapping[str, Provider] = {
    provider.name: provider
    for provider in (
        Provider("openai", "OpenAI", "https://api.openai.com/v1", "OPENAI_API_KEY", _list_openai, "OPENAI_BASE_URL"),
        Provider("azure", "Azure OpenAI", None, "AZURE_OPENAI_API_KEY", _list_openai, answers_by_model=False),
        Provider("together", "Together", "https://api.together.xyz/v1", "TOGETHER_API_KEY", _list_together),
        Provider("mistral", "Mistral", "https://api.mistral.ai/v1", "MISTRAL_API_KEY", _list_mistral),
    )
}
"""The providers by their names on the command line."""
