"""Imports from a stand-in for OpenAI's API into a server on the fake engine."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from loramux_server.importing.errors import ImportingError, ProviderError
from tests.helpers.openai_stand_in import BASE, KEY, OpenAIStandIn, intent_lines, preference_lines
from tests.helpers.tiny_server import TinyServer

pytestmark = pytest.mark.slow

TONE, INTENT = (f"ft:{BASE}:acme:{suffix}:{number:08x}" for number, suffix in enumerate(("tone", "intent")))


@pytest.fixture
def two_jobs(stand_in: OpenAIStandIn) -> OpenAIStandIn:
    stand_in.add_job("tone", intent_lines(60, 1))
    stand_in.add_job("intent", intent_lines(40, 2), intent_lines(40, 3))
    return stand_in


async def jobs_here(target: TinyServer) -> list[Any]:
    return [job async for job in target.client.fine_tuning.jobs.list()]


async def test_each_job_is_trained_with_its_suffix_seed_and_epochs_and_answers_to_its_old_name(
    two_jobs: OpenAIStandIn, target: TinyServer, run: Any
) -> None:
    results = await run()
    assert {name: result.status for name, result in results.items()} == {TONE: "succeeded", INTENT: "succeeded"}
    intent, tone = await jobs_here(target)
    assert (tone.to_dict()["suffix"], tone.seed, tone.hyperparameters.n_epochs) == ("tone", 7, 2)
    assert (intent.to_dict()["suffix"], intent.seed, intent.hyperparameters.n_epochs) == ("intent", 8, 2)
    answer = await target.chat(TONE)
    assert (await target.chat(tone.fine_tuned_model)).choices[0].message.content == answer.choices[0].message.content


async def test_each_old_model_is_compared_with_its_successor_on_examples_that_were_not_trained_on(
    two_jobs: OpenAIStandIn, target: TinyServer, run: Any, tmp_path: Path
) -> None:
    results = await run(hold_out=0.2)
    assert results[INTENT].comparison["items"] == 40
    assert results[INTENT].comparison["verdict"] == "worse"
    assert results[TONE].comparison["items"] == 12
    [_, tone] = await jobs_here(target)
    trained = (await target.client.files.content(tone.training_file)).text.splitlines()
    questions = {json.loads(line)["messages"][0]["content"] for line in trained}
    assert len(trained) == 48
    assert not questions & {question for model, question in two_jobs.asked if model == TONE}
    page = (tmp_path / "import" / "report.html").read_text()
    assert TONE in page
    assert 'class="worse"' in page
    assert (tmp_path / "import" / results[INTENT].comparison["report"]).is_file()
    assert "| worse |" in (tmp_path / "import" / "report.md").read_text()


async def test_a_second_run_changes_nothing_and_asks_nobody_again(
    two_jobs: OpenAIStandIn, target: TinyServer, run: Any
) -> None:
    first = await run()
    asked, downloaded = two_jobs.asked.copy(), two_jobs.sent_bytes.copy()
    files = [file.id async for file in target.client.files.list()]
    assert await run() == first
    assert len(await jobs_here(target)) == 2
    assert [file.id async for file in target.client.files.list()] == files
    assert (two_jobs.asked, two_jobs.sent_bytes) == (asked, downloaded)
    assert set(asked.values()) == {1}


async def test_when_the_provider_is_gone_the_report_is_made_again_with_the_recorded_answers(
    two_jobs: OpenAIStandIn, run: Any, session: Any, tmp_path: Path
) -> None:
    first = await run()
    two_jobs.is_gone = True
    two_jobs.jobs.clear()
    two_jobs.files.clear()
    for path in [*(tmp_path / "import" / "comparisons").rglob("*.jsonl"), tmp_path / "import" / "report.html"]:
        path.unlink()
    assert {name: one.comparison for name, one in (await run()).items()} == {
        name: one.comparison for name, one in first.items()
    }
    without_key = await run(key=None)
    assert without_key[TONE].comparison == first[TONE].comparison
    assert (tmp_path / "import" / "report.html").exists()


async def test_a_model_that_no_longer_answers_is_trained_and_said_not_to_be_compared(
    two_jobs: OpenAIStandIn, run: Any
) -> None:
    two_jobs.is_gone = True
    results = await run()
    assert results[TONE].status == "succeeded"
    assert results[TONE].comparison is None
    assert "does not exist" in results[TONE].reason


async def test_an_old_model_that_is_rate_limited_is_asked_again(
    two_jobs: OpenAIStandIn, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loramux_server.importing.parity.FIRST_WAIT_SECONDS", 0.01)
    two_jobs.errors += [429, 500, 429]
    results = await run(only=("intent",))
    assert results[INTENT].comparison["items"] == 40
    assert set(two_jobs.asked.values()) == {1}


async def test_the_answers_that_were_recorded_before_the_model_went_are_compared(
    two_jobs: OpenAIStandIn, run: Any
) -> None:
    two_jobs.answers_left = 15
    results = await run(only=("intent",))
    assert 12 <= results[INTENT].comparison["items"] <= 15  # those in flight are lost
    assert "does not exist" in results[INTENT].reason


async def test_the_plan_says_what_does_not_carry_over_and_why(
    stand_in: OpenAIStandIn, target: TinyServer, session: Any
) -> None:
    stand_in.add_job("tone", intent_lines(60, 1), integrations=[{"type": "wandb", "wandb": {"project": "p"}}])
    stand_in.checkpoints["ftjob-0000"] = 7
    stand_in.add_job("rl", intent_lines(30, 2), method={"type": "reinforcement", "reinforcement": {"grader": {}}})
    stand_in.add_job("failed", intent_lines(30, 3), status="failed", fine_tuned_model=None)
    stand_in.add_job("running", intent_lines(30, 4), status="running", fine_tuned_model=None)
    stand_in.add_job("deleted", intent_lines(30, 5))
    del stand_in.files[stand_in.jobs[4]["training_file"]]
    stand_in.add_job("broken", b'{"messages": "no list"}\n' * 12)
    stand_in.models.append("ft:gpt-4o:acme:orphan:1")
    made = session()
    await asyncio.to_thread(made.collect)
    plan = await asyncio.to_thread(made.plan)
    by_name = {planned.source.training_file: planned for planned in plan}
    tone, reinforced, failed, running, deleted, broken = (by_name[job["training_file"]] for job in stand_in.jobs)
    notes = "; ".join(tone.notes)
    assert "integrations" in notes
    assert "7 checkpoints" in notes
    assert "batch size and learning rate" in notes
    assert "10 of 60 examples are held out to compare on" in notes
    assert tone.estimate["report"]["examples"] == 50
    assert "grader" in (reinforced.problem or "")
    assert failed.problem == "it failed at the provider"
    assert "when it has ended" in (running.problem or "")
    assert "No such File object" in (deleted.problem or "")
    assert "line 1" in (broken.problem or "")
    assert "broken" in (broken.problem or "")
    assert [planned.is_failure for planned in plan] == [False, False, False, False, True, True]
    assert made.manifest.unlisted == ("ft:gpt-4o:acme:orphan:1",)
    assert await jobs_here(target) == []
    results = await asyncio.to_thread(made.run, plan)
    assert {one.old: one.status for one in results}["ft:gpt-4o:acme:orphan:1"] == "gone"


async def test_preferences_become_a_job_by_dpo_and_the_preferred_answer_is_expected(
    stand_in: OpenAIStandIn, target: TinyServer, run: Any
) -> None:
    method = {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2, "n_epochs": 1}}}
    stand_in.add_job("polite", preference_lines(40), method=method, hyperparameters=None)
    [result] = (await run()).values()
    [job] = await jobs_here(target)
    assert job.method.type == "dpo"
    assert job.to_dict()["loramux"]["recipe"]["beta"] == 0.2
    assert result.comparison["items"] == 10
    assert result.comparison["score"] in {"exact match", "chrF"}


async def test_a_file_in_another_format_is_converted(
    stand_in: OpenAIStandIn, target: TinyServer, run: Any, tmp_path: Path
) -> None:
    pairs = [{"prompt": f"say {number}", "completion": f"number {number}"} for number in range(40)]
    stand_in.add_job("pairs", "\n".join(map(json.dumps, pairs)).encode())
    [result] = (await run()).values()
    assert result.status == "succeeded"
    assert any(note.startswith("converted from ") for note in result.notes)
    [job] = await jobs_here(target)
    trained = (await target.client.files.content(job.training_file)).text
    assert json.loads(trained.splitlines()[0])["messages"][0]["role"] == "user"


async def test_a_job_that_went_on_from_another_one_goes_on_from_its_successor(
    stand_in: OpenAIStandIn, target: TinyServer, run: Any
) -> None:
    stand_in.add_job("tone", intent_lines(40, 1))
    stand_in.add_job("more", intent_lines(40, 2), model=TONE)
    results = await run()
    more, tone = await jobs_here(target)
    assert {one.status for one in results.values()} == {"succeeded"}
    assert more.to_dict()["loramux"]["from_version"].startswith(tone.fine_tuned_model)


async def test_a_failed_job_is_trained_again_only_when_asked_to(
    stand_in: OpenAIStandIn, target: TinyServer, run: Any
) -> None:
    stand_in.add_job("tone", intent_lines(40, 1))
    runner: Any = target.server.job_supervisor.runner
    works, runner.launcher = runner.launcher, type(runner.launcher)("low", command=("false",))
    assert (await run())[TONE].status == "failed"
    runner.launcher = works
    assert (await run())[TONE].status == "failed"
    assert (await run(retry=True))[TONE].status == "succeeded"
    assert len(await jobs_here(target)) == 2


async def test_a_name_that_was_pointed_elsewhere_since_stays_there(
    two_jobs: OpenAIStandIn, target: TinyServer, run: Any
) -> None:
    await run()
    [intent, _] = await jobs_here(target)
    response = await target.http.put(f"/admin/aliases/{TONE}", json={"target": intent.fine_tuned_model})
    assert response.is_success, response.text
    results = await run()
    assert results[TONE].alias == f"left at {intent.fine_tuned_model}"
    assert results[INTENT].alias == "alias set"


async def test_another_share_to_hold_out_is_refused_after_the_training(two_jobs: OpenAIStandIn, run: Any) -> None:
    await run()
    with pytest.raises(ImportingError, match=r"began with --epochs same --hold-out 0\.1: use the same"):
        await run(hold_out=0.3)


async def test_a_folder_with_a_manifest_is_imported_without_a_provider(
    target: TinyServer, run: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "import"
    folder.mkdir()
    (folder / "tone.jsonl").write_bytes(intent_lines(30, 1))
    job = {"training_file": "tone.jsonl", "validation_file": None, "suffix": "tone", "fine_tuned_model": TONE}
    (folder / "manifest.json").write_text(json.dumps({"jobs": [job]}))
    [result] = (await run(provider=None, key=None)).values()
    assert (result.old, result.status, result.alias) == (TONE, "succeeded", "alias set")
    assert "no key" in result.reason


async def test_a_model_that_answers_by_its_deployment_is_asked_and_replaced_by_that_name(
    two_jobs: OpenAIStandIn, target: TinyServer, run: Any
) -> None:
    two_jobs.deployments = {"tone-in-production": TONE, "intent-in-production": INTENT}
    alone = await run(provider="azure")
    assert [alone[name].comparison for name in (TONE, INTENT)] == [None, None]
    for text in (*alone[TONE].notes, alone[TONE].reason)[-2:]:
        assert f"--deployment {TONE}=DEPLOYMENT" in text
    assert not two_jobs.asked
    named = await run(provider="azure", deployments={TONE: "tone-in-production"})
    assert (named[TONE].comparison["items"], named[TONE].alias) == (10, "alias set")
    assert named[INTENT].comparison is None
    assert await target.chat("tone-in-production")
    # A deployment is remembered: the next run needs no option, and does not ask again.
    asked = two_jobs.asked.copy()
    again = await run(provider="azure")
    assert (again[TONE].comparison, two_jobs.asked) == (named[TONE].comparison, asked)
    assert len(await jobs_here(target)) == 2


@pytest.mark.parametrize(
    ("deployments", "message"),
    [
        ({"gpt-4": "x"}, rf"no job made a model 'gpt-4'; expected one of: .*{TONE}"),
        ({TONE: "x", INTENT: "x"}, "two models have the same deployment"),
    ],
)
async def test_a_deployment_is_of_one_model_that_a_job_made(
    two_jobs: OpenAIStandIn, session: Any, deployments: dict[str, str], message: str
) -> None:
    with pytest.raises(ImportingError, match=message):
        await asyncio.to_thread(session(provider="azure", deployments=deployments).collect)


async def test_the_key_is_not_sent_to_a_url_that_only_a_manifest_names(
    stand_in: OpenAIStandIn, session: Any, tmp_path: Path
) -> None:
    (tmp_path / "import").mkdir()
    (tmp_path / "import" / "tone.jsonl").write_bytes(intent_lines(30, 1))
    jobs = [{"training_file": "tone.jsonl", "fine_tuned_model": TONE}]
    manifest = {"provider": "unknown", "base_url": stand_in.url, "jobs": jobs}
    (tmp_path / "import" / "manifest.json").write_text(json.dumps(manifest))
    made = session(provider=None)
    made.base_url = None
    results = await asyncio.to_thread(lambda: [made.collect(), made.run(made.plan())][1])
    assert "no key" in results[0].reason
    assert stand_in.requests.total() == 0


async def test_the_key_is_neither_stored_nor_sent_to_the_server(
    two_jobs: OpenAIStandIn, target: TinyServer, run: Any, tmp_path: Path
) -> None:
    await run()
    kept = [path for path in (tmp_path / "import").rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    kept += [
        path for path in target.settings.data_dir.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()
    ]
    assert kept == []


async def test_a_wrong_key_is_named_as_the_reason_without_being_shown(two_jobs: OpenAIStandIn, session: Any) -> None:
    made = session(key="sk-wrong")
    with pytest.raises(ProviderError, match=r"OpenAI refuses the API key \(401\)") as error:
        await asyncio.to_thread(made.collect)
    assert "sk-wrong" not in str(error.value)


async def test_a_folder_is_used_by_one_import_at_a_time(session: Any) -> None:
    made, other = session(), session()
    with made.folder.lock(), pytest.raises(ImportingError, match="another import uses"), other.folder.lock():
        pass
