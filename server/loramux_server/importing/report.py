"""The result of an import: one table and one page, with a verdict per model."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from pydantic import BaseModel, ConfigDict

from loramux_loadtests.report_tables import escape_markdown, markdown_table
from loramux_server.importing.folder import ImportFolder, Manifest
from loramux_server.importing.plan import PlannedJob
from loramux_server.importing.target import Job

COLUMNS = ("old model", "new model", "status", "items", "old", "new", "difference", "verdict")


class ModelResult(BaseModel):
    """What became of one old model. `comparison` is that of `parity.outcome`."""

    model_config = ConfigDict(frozen=True)

    id: str
    old: str
    new: str | None = None
    job: str | None = None
    status: str
    """The job's status; `not imported` if there is none, `gone` if the provider has no job of the model."""
    reason: str | None = None
    """Why there is no job, no successor or no comparison."""
    alias: str | None = None
    notes: tuple[str, ...] = ()
    comparison: dict[str, Any] | None = None
    evaluation: str | None = None
    """What the job's own comparison with the prompted base says."""
    is_failure: bool = False

    @property
    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        found: Mapping[str, Any] = self.comparison or {}
        scores = [_number(found.get(name)) for name in ("old", "new")]
        verdict = str(found.get("verdict") or self.reason or "not compared")
        items = str(found["items"]) if found else "–"
        return (self.old, self.new or "–", self.status, items, *scores, _interval(found.get("difference")), verdict)


def model_result(
    planned: PlannedJob, job: Job | None, reason: str | None, alias: str | None, comparison: dict[str, Any] | None
) -> ModelResult:
    """Describe one planned job, with the job here, if there is one."""
    error: Any = (job or {}).get("error") or {}
    status = str(job["status"]) if job else "not imported"
    details: Any = (job or {}).get("loramux") or {}
    evaluation: Any = details.get("evaluation") or {}
    return ModelResult(
        id=planned.source.id,
        old=planned.source.name,
        new=job.get("fine_tuned_model") if job else None,
        job=str(job["id"]) if job else None,
        status=status,
        reason=str(error.get("message")) if error else reason or planned.problem,
        alias=alias,
        notes=tuple(planned.notes),
        comparison=comparison,
        evaluation=evaluation.get("sentence") if isinstance(evaluation, dict) else None,
        is_failure=planned.is_failure or (planned.problem is None and status != "succeeded"),
    )


def results_without_jobs(manifest: Manifest) -> list[ModelResult]:
    """The fine-tuned models whose job is gone, and the jobs that can't be read."""
    gone = "the provider lists the model, but no job of it: its training data can't be found"
    return [
        *(ModelResult(id=name, old=name, status="gone", reason=gone) for name in manifest.unlisted),
        *(
            ModelResult(id=job.id, old=job.id, status="not imported", reason=job.reason, is_failure=True)
            for job in manifest.unreadable
        ),
    ]


def write_report(folder: ImportFolder, manifest: Manifest, base: str, results: Sequence[ModelResult]) -> None:
    """Write `report.html`, `report.md` and `report.json`."""
    rows = [[escape_markdown(cell) for cell in result.cells] for result in results]
    notes = [f"- {escape_markdown(result.old)}: {escape_markdown(note)}" for result in results for note in result.notes]
    folder.write_text("report.md", "\n".join([*markdown_table(COLUMNS, rows), "", *notes]) + "\n")
    document = {"provider": manifest.provider, "base": base, "models": [result.model_dump() for result in results]}
    folder.write_text("report.json", json.dumps(document, indent=2) + "\n")
    templates = PackageLoader("loramux_server.importing")
    environment = Environment(loader=templates, autoescape=select_autoescape(default=True), trim_blocks=True)
    page = environment.get_template("report.html").render(
        provider=manifest.provider, base=base, results=results, columns=COLUMNS
    )
    folder.write_text("report.html", page)


def _number(interval: Any) -> str:
    return "–" if not interval else f"{interval[1]:.2f}"


def _interval(interval: Any) -> str:
    return "–" if not interval else f"{interval[1]:+.2f} [{interval[0]:+.2f}, {interval[2]:+.2f}]"
