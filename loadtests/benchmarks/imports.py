"""An import of fine-tunes that is killed at random moments: nothing lost, nothing trained twice: `make bench-import`.

`loramux import openai --yes` runs against a local stand-in for OpenAI's API and a loramux server on the fake engine,
whose trainer takes no CPU: what is measured is the import, not the training. It is killed by SIGKILL and started again
with the same arguments, and so on; in the end it runs to its end.
"""

import asyncio
import hashlib
import json
import os
import random
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.command import RESULTS, run_benchmark
from benchmarks.progress import StepProgress
from benchmarks.report import BenchmarkReport, Metric
from loramux_adapters.evaluation.statistics import spread
from tests.helpers.importing import importing_server
from tests.helpers.openai_stand_in import KEY, OpenAIStandIn, intent_lines
from tests.helpers.tiny_server import TinyServer, write_base

SIZES = (60, 80, 110, 150, 200, 270, 360, 480, 640, 850, 1100, 1300)
"""Examples of the jobs."""
WITH_VALIDATION = 3
"""Every third job has a validation file, of VALIDATION_EXAMPLES."""
VALIDATION_EXAMPLES = 60
ITEMS = 20
MIN_LIFE_SECONDS, MAX_LIFE_SECONDS = 0.5, 9.0
BLOCK_SECONDS, ANSWER_SECONDS, STEP_SECONDS = 0.03, 0.1, 0.3
"""So slow is the stand-in, and so long the trainer takes, that every phase is hit by kills."""


@dataclass
class KilledImport:
    """An import of jobs with these sizes, in `folder`, killed `kills` times while it runs."""

    folder: Path
    sizes: tuple[int, ...] = SIZES
    kills: int = 20
    seed: int = 0
    step_seconds: float = STEP_SECONDS
    """Seconds of a step of the training; a job has six steps."""
    longest_life: float = MAX_LIFE_SECONDS
    """Seconds after which it is killed at the latest."""
    lives: list[float] = field(default_factory=list)
    """Seconds after which it was killed."""
    phases: Counter[str] = field(default_factory=Counter)
    """What it said last before each kill: its first two words."""
    unfinished: bool = True

    async def measure(self, progress: StepProgress) -> dict[str, float]:
        """Run, kill and run to the end; return what was lost, done twice and done."""
        stand_in, base = _stand_in(self.sizes), write_base(self.folder / "base")
        server = importing_server(self.folder / "server", base, self.step_seconds)
        async with stand_in.running(), server as target:
            rng = random.Random(self.seed)  # noqa: S311 - reproducible
            while len(self.lives) < self.kills and self.unfinished:
                progress.begin(f"kill {len(self.lives) + 1}")
                await self._run(stand_in, target, rng.uniform(MIN_LIFE_SECONDS, self.longest_life))
            progress.begin("to the end")
            await self._run(stand_in, target, None)
            return await self._findings(stand_in, target)

    async def _run(self, stand_in: OpenAIStandIn, target: TinyServer, life: float | None) -> None:
        """Run the import, and kill it after `life` seconds if it has not ended by then."""
        options = (
            "--base-url",
            stand_in.url,
            "--url",
            target.url,
            "--folder",
            str(self.imported),
            "--items",
            str(ITEMS),
        )
        command = (sys.executable, "-m", "loramux_server", "import", "openai", "--yes", *options)
        log = self.folder / "import.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *command, env=os.environ | {"OPENAI_API_KEY": KEY}, stdout=output, stderr=output
            )
            try:
                await asyncio.wait_for(process.wait(), life)
            except TimeoutError:
                process.kill()
                await process.wait()
                self.lives.append(life or 0.0)
                self.phases[_phase(log)] += 1
                return
        self.unfinished = False
        if process.returncode:
            raise OSError(f"the import ended with {process.returncode}: {log.read_text()[-2000:]}")

    @property
    def imported(self) -> Path:
        """The folder of the import."""
        return self.folder / "import"

    async def _findings(self, stand_in: OpenAIStandIn, target: TinyServer) -> dict[str, float]:
        jobs = [job.to_dict() async for job in target.client.fine_tuning.jobs.list()]
        trained: Counter[str] = Counter(str(job["metadata"]["imported_from"]) for job in jobs)  # type: ignore[index]
        names = [job["fine_tuned_model"] for job in stand_in.jobs]
        models = json.loads((self.imported / "report.json").read_text())["models"]
        files = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (self.imported / "files").iterdir()}
        wanted = {hashlib.sha256(content).hexdigest() for _, content in stand_in.files.values()}
        uploads = Counter([file.filename async for file in target.client.files.list(purpose="fine-tune")])
        return {
            "kills": len(self.lives),
            "jobs that were not trained": len(names) - sum(job["status"] == "succeeded" for job in jobs),
            "jobs that were trained twice": sum(count - 1 for count in trained.values()),
            "files that were lost": len(wanted - files),
            "old names that do not answer": await _unanswered(target, names),
            "models without a verdict": sum(not model["comparison"] for model in models),
            "files that the server has twice": sum(count - 1 for count in uploads.values()),
            "share of bytes downloaded again": sum(stand_in.sent_bytes.values())
            / sum(len(content) for _, content in stand_in.files.values())
            - 1,
            "share of questions asked again": sum(stand_in.asked.values()) / len(stand_in.asked) - 1,
        }


def _stand_in(sizes: tuple[int, ...]) -> OpenAIStandIn:
    stand_in = OpenAIStandIn(block_seconds=BLOCK_SECONDS, answer_seconds=ANSWER_SECONDS)
    for number, size in enumerate(sizes):
        has_validation = number % WITH_VALIDATION == 0
        validation = intent_lines(VALIDATION_EXAMPLES, 1000 + number) if has_validation else None
        stand_in.add_job(f"job-{number}", intent_lines(size, number), validation)
    return stand_in


async def _unanswered(target: TinyServer, names: list[str]) -> int:
    """Ask each old name for an answer; return how many gave none."""
    missing = 0
    for name in names:
        response = await target.http.post(
            "/v1/chat/completions",
            json={"model": name, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2},
        )
        missing += response.status_code != 200
    return missing


def _phase(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    said: list[Any] = lines[-1].split() if lines else []
    return " ".join(said[:1]) or "starting"


def _report(killed: KilledImport, findings: dict[str, float]) -> BenchmarkReport:
    goals: dict[str, float] = {name: 0 for name in findings if name != "kills" and not name.startswith("share")}
    metrics = [Metric(name, spread([value]), "", at_most=goals.get(name)) for name, value in findings.items()]
    metrics[0] = Metric("kills", spread([findings["kills"]]), "", at_least=killed.kills)
    return BenchmarkReport(
        "Import of fine-tunes, killed at random moments",
        f"`loramux import openai --yes` of {len(killed.sizes)} jobs with {min(killed.sizes)} to {max(killed.sizes):,} "
        f"examples from a stand-in for OpenAI's API, killed by SIGKILL {MIN_LIFE_SECONDS:g} to {MAX_LIFE_SECONDS:g} s "
        "after each of its starts, then run to its end, always with the same arguments. The server has the fake engine "
        "and a trainer without a model. Questions that were in flight when it was killed are asked again.",
        metrics,
        {"jobs": len(killed.sizes), "kills": killed.kills, "seed": killed.seed, "items per model": ITEMS},
        [{"killed after": round(life, 2)} for life in killed.lives],
        [f"- last words before a kill: {word} ({count})" for word, count in sorted(killed.phases.items())],
    )


def measure(scratch: Path, kills: int, seed: int) -> BenchmarkReport:
    """Measure one import."""
    killed = KilledImport(scratch, kills=kills, seed=seed)
    with StepProgress() as progress:
        progress.set_total(kills + 1)
        return _report(killed, asyncio.run(killed.measure(progress)))


def main(
    kills: Annotated[int, typer.Option(min=0, help="Kills of the import.")] = 20,
    seed: Annotated[int, typer.Option(help="Random seed of their moments.")] = 0,
    results: Annotated[Path, typer.Option(help="Folder for the report.")] = RESULTS,
) -> None:
    """Kill an import. Exit code: 0; 1 if something was lost or done twice, 2 if it failed."""
    raise typer.Exit(run_benchmark("import", lambda scratch: measure(scratch, kills, seed), results))


if __name__ == "__main__":
    typer.run(main)
