"""Runs the planned jobs on the server, and points the old names at their results; run again, it goes on."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from loramux_server.importing.errors import ImportingError, QueueFullError, RefusedError
from loramux_server.importing.plan import PlannedJob, importable
from loramux_server.importing.target import ENDED, FAILED, ImportedJob, Job, TargetServer

POLL_SECONDS = 2.0

OnProgress = Callable[[Mapping[str, Job]], None]
"""Is told of the jobs here by the keys of the planned ones, each time they were looked at."""


class JobRun:
    """Creates the jobs of a plan that the server does not have, and waits until all have ended.

    `retry`: jobs that failed in an earlier run are created once more.
    """

    def __init__(self, target: TargetServer, plan: Sequence[PlannedJob], *, retry: bool = False) -> None:
        self._target, self._plan = target, importable(plan)
        self._retries = {planned.key for planned in self._plan} if retry else set()
        self.refused: dict[str, str] = {}
        """Reasons of the server not to create a job, by the planned job's key."""

    def run(self, on_progress: OnProgress, poll_seconds: float = POLL_SECONDS) -> Mapping[str, Job]:
        """Return the jobs here by the planned jobs' keys.

        Raises:
            ProviderError: the server can't be reached.
        """
        while True:
            known = self._target.imported()
            jobs = {planned.key: known[planned.key].job for planned in self._plan if planned.key in known}
            waiting = self._create_missing(known, jobs)
            on_progress(jobs)
            if not waiting and all(job["status"] in ENDED for job in jobs.values()):
                return jobs
            time.sleep(poll_seconds)

    def _create_missing(self, known: Mapping[str, ImportedJob], jobs: dict[str, Job]) -> bool:
        """Create jobs while the queue has room, and add them to `jobs`; return whether some are still missing."""
        waiting = False
        for planned in self._plan:
            before = known.get(planned.key)
            if planned.key in self.refused or (before and not self._is_retried(planned, before)):
                continue
            try:
                body = self._body(planned, jobs)
                if body is None:
                    waiting = True
                    continue
                attempt = before.failures if before else 0
                jobs[planned.key] = self._target.create(body, planned.key, planned.source.name, attempt)
                self._retries.discard(planned.key)
            except QueueFullError:
                return True
            except RefusedError as error:
                self.refused[planned.key] = str(error)
        return waiting

    def _is_retried(self, planned: PlannedJob, before: ImportedJob) -> bool:
        return planned.key in self._retries and before.job["status"] in FAILED

    def _body(self, planned: PlannedJob, jobs: Mapping[str, Job]) -> dict[str, Any] | None:
        """The request of a job; None while the job that it goes on from has not ended.

        Raises:
            RefusedError: the job that it goes on from has failed.
        """
        body = dict(planned.body or {})
        parent = next((other for other in self._plan if other.source.id == planned.parent), None)
        if parent is None:
            return body
        job = jobs.get(parent.key)
        if parent.key in self.refused or (job and job["status"] in FAILED):
            raise RefusedError(f"{parent.source.name}, which it goes on from, was not trained")
        if job is None or job["status"] not in ENDED:
            return None
        return body | {"model": job["fine_tuned_model"]}


def set_aliases(target: TargetServer, plan: Sequence[PlannedJob], jobs: Mapping[str, Job]) -> dict[str, str]:
    """Point each old model's name, and that of its deployment, at its successor; return what happened, by the old name.

    A name that the user has pointed elsewhere since stays there.
    """
    results = {}
    for planned in importable(plan):
        old, job = planned.source.fine_tuned_model, jobs.get(planned.key)
        if old and job and job["status"] not in FAILED and job.get("fine_tuned_model"):
            names = dict.fromkeys((old, planned.answers_as or old))
            outcomes = [_set_alias(target, name, str(job["fine_tuned_model"])) for name in names]
            results[old] = "; ".join(dict.fromkeys(outcomes))
    return results


def _set_alias(target: TargetServer, old: str, new: str) -> str:
    try:
        current = target.alias(old)
        if current not in (None, new):
            return f"left at {current}"
        if current is None:
            target.set_alias(old, new)
    except ImportingError as error:
        return f"no alias: {error}"
    return "alias set"
