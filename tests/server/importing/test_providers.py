"""The job lists of other providers, with the examples of their documentation."""

from typing import Any

from loramux_server.importing.providers import PROVIDERS
from loramux_server.importing.source_job import SourceJob

TOGETHER = {
    "id": "ft-01234567890123456789", "status": "completed", "created_at": "2023-05-17T17:35:45.123Z",
    "updated_at": "2023-05-17T18:46:23.456Z", "events": [], "model": "meta-llama/Llama-2-7b-hf",
    "model_output_name": "mynamespace/meta-llama/Llama-2-7b-hf-32162631", "n_epochs": 3,
    "training_file": "file-01234567890123456789", "wandb_project_name": "my-finetune-project",
}  # fmt: skip
MISTRAL = {
    "id": "b18d8d81-fd7b-4764-a31e-475cb1f36591", "auto_start": True, "model": "open-mistral-7b", "status": "SUCCESS",
    "created_at": 1716293377, "modified_at": 1716293477, "object": "job", "suffix": None, "job_type": "completion",
    "training_files": ["5b1e1d4a", "7c2f2e5b"], "validation_files": [], "fine_tuned_model": "ft:open-mistral-7b:me:1",
    "hyperparameters": {"training_steps": None, "learning_rate": 1e-4, "epochs": 2.4},
}  # fmt: skip


class Pages:
    """A client whose `get` returns one page after the other."""

    def __init__(self, *pages: Any) -> None:
        self.pages, self.paths = list(pages), []  # type: ignore[var-annotated]

    def get(self, path: str, **_: Any) -> Any:
        self.paths.append(path)
        return self.pages.pop(0)


def listed(provider: str, *pages: Any) -> list[SourceJob]:
    client: Any = Pages(*pages)
    return [SourceJob.parse(job) for job in PROVIDERS[provider].list_jobs(client)]


def test_a_job_of_together_is_read() -> None:
    preferred = TOGETHER | {"id": "ft-2", "training_method": {"method": "dpo", "dpo_beta": 0.2}, "status": "user_error"}
    job, dpo = listed("together", {"data": [TOGETHER, preferred, "no job"]})
    assert (job.id, job.status, job.fine_tuned_model) == (
        "ft-01234567890123456789",
        "succeeded",
        "mynamespace/meta-llama/Llama-2-7b-hf-32162631",
    )
    assert (job.training_files, job.chosen.n_epochs) == (("file-01234567890123456789",), 3)
    assert (dpo.method_type, dpo.chosen.beta, dpo.status) == ("dpo", 0.2, "failed")


def test_a_job_of_mistral_is_read_with_all_its_files() -> None:
    full = [MISTRAL | {"id": str(number)} for number in range(100)]
    jobs = listed("mistral", {"data": full}, {"data": [MISTRAL | {"job_type": "classifier"}]})
    assert len(jobs) == 101
    assert jobs[0].training_files == ("5b1e1d4a", "7c2f2e5b")
    assert (jobs[0].status, jobs[0].chosen.n_epochs, jobs[0].validation_file) == ("succeeded", 2, None)
    assert jobs[-1].method_type == "classifier"


def test_answers_of_another_shape_are_empty_lists() -> None:
    for provider in ("together", "mistral"):
        pages: list[Any] = [None, [], {}, {"data": None}, {"data": "x"}, "text"]
        for page in pages:
            assert listed(provider, page) == []
