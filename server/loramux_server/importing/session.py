"""An import from its start to its report. Every step looks at what is there already, so that it can be run again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import SecretStr

from loramux_server.importing import parity, report
from loramux_server.importing.errors import ImportingError, ProviderError
from loramux_server.importing.folder import ImportFolder, Manifest
from loramux_server.importing.listing import download_files, list_jobs
from loramux_server.importing.parity import HeldOut, OldModel, Parity
from loramux_server.importing.plan import (
    ImportOptions,
    PlannedJob,
    files_wanted,
    importable,
    make_plan,
    unknown_deployment,
)
from loramux_server.importing.provider_client import make_client
from loramux_server.importing.providers import PROVIDERS, Provider
from loramux_server.importing.report import ModelResult, model_result, results_without_jobs
from loramux_server.importing.target import Job, TargetServer
from loramux_server.importing.training import POLL_SECONDS, JobRun, set_aliases


class Output(Protocol):
    """Shows what happens."""

    def say(self, sentence: str) -> None:
        """Show a step."""

    def jobs(self, jobs: Mapping[str, Job]) -> None:
        """Show the state of the jobs here, by the planned jobs' keys."""


@dataclass
class ImportSession:
    """One run of `loramux import` in a folder whose lock is held.

    `provider` is None for `--from-folder`; `key` is the provider's.
    """

    folder: ImportFolder
    target: TargetServer
    options: ImportOptions
    output: Output
    provider: Provider | None = None
    base_url: str | None = None
    key: SecretStr | None = None
    poll_seconds: float = POLL_SECONDS
    manifest: Manifest = field(default_factory=Manifest)

    def collect(self) -> None:
        """List the provider's jobs and download their files; what is in the folder already stays.

        Raises:
            ImportingError: there is nothing to import, the provider can't be asked and the folder is empty, or a
                deployment is of no model.
        """
        self.manifest = self.folder.read()
        if self.provider:
            try:
                self._list_and_download(self.provider)
            except ProviderError as error:
                if not self.manifest.jobs:
                    raise
                self.output.say(f"going on with what {self.folder.root} has: {error}")
        if not self.manifest.jobs:
            raise ImportingError(f"there are no fine-tuning jobs in {self.folder.root}")
        if self.options.deployments:
            self.manifest = self.manifest.with_deployments(self.options.deployments)
            self.folder.write(self.manifest)

    def _list_and_download(self, provider: Provider) -> None:
        if self.key is None:
            raise ProviderError(f"set {provider.key_variable} to your API key of {provider.title}")
        base_url = self.base_url or provider.base_url
        if base_url is None:
            raise ImportingError(f"name the API of your {provider.title} resource with --base-url")
        if self.manifest.jobs and self.manifest.provider != provider.name:
            found = self.manifest.provider
            raise ImportingError(f"{self.folder.root} has an import from {found}: choose another --folder")
        with make_client(base_url, self.key) as client:
            self.manifest = list_jobs(provider, client, base_url, self.manifest)
            self.folder.write(self.manifest)
            self.output.say(f"{provider.title} lists {len(self.manifest.jobs)} fine-tuning jobs")
            wanted = files_wanted(self.manifest, self.options)
            self.manifest = download_files(provider, client, self.folder, self.manifest, wanted, self.output.say)

    def plan(self) -> list[PlannedJob]:
        """Plan every selected job.

        Raises:
            ProviderError: the server can't be reached.
        """
        return make_plan(self.manifest, self.folder, self.target, self.options)

    def run(self, plan: Sequence[PlannedJob]) -> list[ModelResult]:
        """Record the old models' answers, train, set aliases, compare and write the report.

        Raises:
            ImportingError: an earlier run had other options, or the server can't be reached.
        """
        self._keep_options()
        held_out, missing = self._record(plan) if self.options.compare else ({}, {})
        training = JobRun(self.target, plan, retry=self.options.retry)
        jobs = training.run(self.output.jobs, self.poll_seconds)
        aliases = set_aliases(self.target, plan, jobs) if self.options.aliases else {}
        results = []
        for planned in plan:
            job, reason = jobs.get(planned.key), training.refused.get(planned.key) or missing.get(planned.key)
            comparison = None
            if job and job.get("fine_tuned_model") and planned.key in held_out:
                comparison, reason = self._compare(planned, held_out[planned.key], job, reason)
            alias = aliases.get(planned.source.fine_tuned_model or "")
            results.append(model_result(planned, job, reason, alias, comparison))
        results += results_without_jobs(self.manifest)
        report.write_report(self.folder, self.manifest, self.target.base_model(), results)
        return results

    def _keep_options(self) -> None:
        """What is trained depends on these options: a later run with others would compare with trained examples."""
        chosen, before = self.options.of_training(), self.manifest.options
        if before and before != chosen:
            was = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in before.items())
            raise ImportingError(
                f"the import in {self.folder.root} began with {was}: use the same, or another --folder"
            )
        self.manifest = self.manifest.model_copy(update={"options": chosen})
        self.folder.write(self.manifest)

    def _record(self, plan: Sequence[PlannedJob]) -> tuple[dict[str, HeldOut], dict[str, str]]:
        """Record the old models' answers; return the items of each, and why answers are missing."""
        recorder, found, missing = Parity(self.folder), {}, {}
        for planned in importable(plan):
            try:
                items = found[planned.key] = parity.read_held_out(self.folder, planned, self.options.items)
            except ImportingError as error:
                missing[planned.key] = f"not compared: {error}"
                continue
            if len(recorder.recorded(planned, items)) == len(items.items):
                continue
            reason = self._why_not_asked(planned) or self._ask_old(recorder, planned, items)
            if reason:
                missing[planned.key] = f"the old model does not answer: {reason}"
                self.output.say(f"{planned.source.name}: {missing[planned.key]}")
        return found, missing

    def _why_not_asked(self, planned: PlannedJob) -> str | None:
        if not planned.source.fine_tuned_model:
            return "it has no name"
        if planned.answers_as is None:
            return unknown_deployment(planned.source)
        return None if self._old_url and self.key else "there is no key to ask it with"

    @property
    def _old_url(self) -> str | None:
        """Where the key may be sent: never to a URL that only a manifest names, which anybody may have written."""
        provider = self.provider or PROVIDERS.get(self.manifest.provider)
        return self.base_url or (provider.base_url if provider else None)

    def _ask_old(self, recorder: Parity, planned: PlannedJob, items: HeldOut) -> str | None:
        self.output.say(f"asking {planned.source.name} {len(items.items)} held-out items")
        old = OldModel(self._old_url or "", self.key)
        return recorder.record(planned, items, old, lambda: None)

    def _compare(
        self, planned: PlannedJob, items: HeldOut, job: Job, reason: str | None
    ) -> tuple[dict[str, object] | None, str | None]:
        try:
            new = str(job["fine_tuned_model"])
            summary = Parity(self.folder).compare(planned, items, new, self.target.url, self.target.key)
        except ImportingError as error:
            return None, reason or f"not compared: {error}"
        return parity.outcome(summary), reason
