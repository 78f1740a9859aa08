"""The command, against a server of a few lines."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loramux_loadtests.compare.errors import ComparisonError
from loramux_loadtests.compare.reading import CompareOptions, parse_scorer
from loramux_loadtests.compare.session import compare_all
from loramux_server.cli.main import main
from tests.helpers.comparisons import TrafficLightServer, write_example

pytestmark = pytest.mark.slow


@pytest.fixture
def lights() -> TrafficLightServer:
    return TrafficLightServer()


@pytest.fixture
def url(lights: TrafficLightServer) -> Iterator[str]:
    """The server in a thread of its own, because the command has an event loop of its own, too."""
    found: list[str] = []
    ready, over = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with lights.running() as at:
            found.append(at)
            ready.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    ready.wait()
    yield found[0]
    loop.call_soon_threadsafe(over.set)
    thread.join()
    loop.close()


@pytest.fixture
def run(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> "Run":
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return Run(url)


class Run:
    """Runs `loramux compare`."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self, *arguments: str, url: str | None = None) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["compare", *arguments, "--url", url or self.url])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, " ".join(result.output.split())


def test_a_folder_is_compared_with_the_servers_own_base_and_reported(
    run: Run, lights: TrafficLightServer, tmp_path: Path
) -> None:
    code, output = run(str(write_example(tmp_path)), "--assert", "quality_gain > 0.2 and prompt_token_ratio <= 1")
    assert (code, len(lights.requests)) == (0, 96), output
    assert "“adapter, short prompt” is better than “base, short prompt” by 0.50" in output
    folder = tmp_path / "comparisons" / "lights"
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "report.json", "report.md", "rows.jsonl"]
    assert "forget me" not in json.dumps(lights.requests)
    assert run(str(tmp_path / "lights"))[0] == 0
    assert len(lights.requests) == 96  # nothing was asked again


def test_data_and_arms_can_be_given_on_the_command_line(run: Run, lights: TrafficLightServer, tmp_path: Path) -> None:
    data = str(write_example(tmp_path) / "test.jsonl")
    (tmp_path / "short.txt").write_text("label")
    arms = ["--arm", "one=tiny:short.txt", "--arm", "two=lights", "--arm", "three=tiny"]
    code, output = run(data, *arms, "--challenger", "two", "--limit", "22", "--passes", "cold,warm")
    assert (code, len(lights.requests)) == (0, 22 * 3 * 2), output
    assert "“two” is better than “one”" in output
    assert {len(body["messages"]) for body in lights.requests} == {2}  # each has a system message


def test_the_items_system_message_is_sent_to_an_arm_without_a_prompt_and_shown(
    run: Run, lights: TrafficLightServer, tmp_path: Path
) -> None:
    """T2: `compare` dropped each item's system message, and with it the prompt that the adapter was trained with."""
    data = str(write_example(tmp_path) / "test.jsonl")
    (tmp_path / "own.txt").write_text("rules")
    code, output = run(data, "--arm", "prompted=tiny:own.txt", "--arm", "tuned=lights", "--training", data)
    assert (code, "every item is in the training file" in output) == (2, True), output
    code, output = run(data, "--arm", "prompted=tiny:own.txt", "--arm", "tuned=lights")
    assert code == 0, output
    sent = {body["model"]: {message["content"] for message in body["messages"][:-1]} for body in lights.requests}
    assert sent == {"tiny": {"rules"}, "lights": {"forget me"}}
    assert "warning: the prompt of “prompted” replaces the system message of all items." in output
    folder = tmp_path / "comparisons" / "test"
    report = json.loads((folder / "report.json").read_text())
    messages = {name: arm["messages"] for name, arm in report["samples"][0]["arms"].items()}
    assert [message["content"] for message in messages["tuned"]] == ["forget me", "red 0"]
    assert [message["content"] for message in messages["prompted"]] == ["rules", "red 0"]
    assert "system: forget me" in (folder / "report.html").read_text()
    assert [warning["code"] for warning in report["warnings"]] == ["replaced_system_message"]


def test_two_arms_that_get_nothing_right_raise_the_question_whether_the_scorer_is(run: Run, tmp_path: Path) -> None:
    """T3: 0 of 10 twice was "Keep prompted ... +0.00 [+0.00, +0.00]", and "Where they differ most: Nowhere"."""
    lines = write_example(tmp_path).joinpath("test.jsonl").read_text().splitlines()[:10]
    data = tmp_path / "ten.jsonl"
    data.write_text("\n".join(lines).replace('"stop"', '"halt"').replace('"go"', '"drive"'))
    code, output = run(str(data), "--arm", "prompted=tiny", "--arm", "tuned=lights", "--scorer", "exact")
    assert code == 0, output
    assert "Neither “tuned” nor “prompted” works" in output
    assert "Is the scorer right" in output
    assert "Keep" not in output
    assert "│ red 0 │ halt │ stop │ stop │" in output
    folder = tmp_path / "comparisons" / "ten"
    assert "| red 0 | halt | stop | stop |" in (folder / "report.md").read_text()
    page = (folder / "report.html").read_text()
    assert "<td>green 0</td><td>drive</td><td>stop</td><td>go</td>" in page
    assert "Where they differ most" not in page
    low, estimate, high = json.loads((folder / "report.json").read_text())["passes"][0]["difference"]
    assert (estimate, low < -0.1, high > 0.1) == (0, True, True)
    assert "+0.00 [+0.00" not in output + page


EARLIER = {"comparison": "ec386012e1113cc2"}
"""What loramux 0.2.0 wrote for twelve items `red 0` to `red 11`, with and without a system message, and these arms."""
ANSWER = {
    "pass_": "warm", "arm": "tuned", "item": 3, "text": "stop", "input_tokens": 10, "cached_tokens": 0,
    "output_tokens": 1, "ttft": 0.1, "tpot": None, "seconds": 0.2,
}  # fmt: skip


@pytest.mark.parametrize("system", [False, True])
def test_answers_of_an_earlier_release_are_resumed_or_refused_with_the_reason(
    url: str, lights: TrafficLightServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], system: bool
) -> None:
    turns = [[{"role": "user", "content": f"red {i}"}, {"role": "assistant", "content": "stop"}] for i in range(12)]
    own = [{"role": "system", "content": "forget me"}] if system else []
    data = tmp_path / "test.jsonl"
    data.write_text("".join(json.dumps({"messages": own + turn}) + "\n" for turn in turns))
    rows = tmp_path / "comparisons" / "test" / "rows.jsonl"
    rows.parent.mkdir(parents=True)
    rows.write_text(f"{json.dumps(EARLIER)}\n{json.dumps(ANSWER)}\n")
    arms = ["prompted=tiny", "tuned=lights"]
    options = CompareOptions(url, server="lights", arms=arms, scorer="exact", output=tmp_path / "comparisons")
    code, _ = compare_all([data], options)
    if system:
        assert code == 2
        assert "of loramux 0.2 or earlier, which did not send" in " ".join(capsys.readouterr().err.split())
    else:
        assert (code, len(lights.requests)) == (0, 23)


def test_a_condition_that_does_not_hold_exits_with_1_and_prints_the_variables(run: Run, tmp_path: Path) -> None:
    code, output = run(str(write_example(tmp_path)), "--assert", "quality_gain > 0.9", "--assert", "is_better")
    assert code == 1
    assert "does not hold: quality_gain > 0.9" in output
    assert "quality_gain 0.5" in output
    assert "does not hold: is_better" not in output


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--assert", "quality_gane > 0"], "unknown variable 'quality_gane'"),
        (["--assert", "cost_ratio < 1"], "unknown variable 'cost_ratio'"),  # as there are no prices
        (["--prices", "prices.yaml"], "prices.yaml: gpu_hour"),
        (["--challenger", "nobody"], "unknown arm 'nobody'"),
    ],
)
def test_an_invalid_option_exits_with_2(run: Run, tmp_path: Path, options: list[str], reason: str) -> None:
    (tmp_path / "prices.yaml").write_text("gpu_hour: much\n")
    code, output = run(str(write_example(tmp_path)), *options)
    assert (code, reason in output) == (2, True), output


def test_the_old_name_of_concurrency_still_works_with_a_warning(run: Run, tmp_path: Path) -> None:
    code, output = run(str(write_example(tmp_path)), "--at-once", "2")
    assert (code, "--at-once is deprecated: use --concurrency instead" in output) == (0, True), output
    assert '"concurrency": 2' in (tmp_path / "comparisons" / "lights" / "report.json").read_text()


def test_a_missing_model_exits_with_2_and_the_next_run_resumes(
    run: Run, lights: TrafficLightServer, tmp_path: Path
) -> None:
    folder = str(write_example(tmp_path))
    lights.fails_after, lights.status = 10, 404
    code, output = run(folder)
    assert (code, "does not exist" in output) == (2, True)
    kept = (tmp_path / "comparisons" / "lights" / "rows.jsonl").read_text().count('"item"')
    assert 0 < kept <= 10
    before, lights.fails_after = len(lights.requests), 1000
    assert run(folder)[0] == 0
    assert len(lights.requests) - before == 96 - kept


def test_a_server_that_does_not_answer_exits_with_2(run: Run, tmp_path: Path) -> None:
    code, output = run(str(write_example(tmp_path)), url="http://127.0.0.1:1")
    assert (code, "127.0.0.1:1" in output) == (2, True)
    assert run(str(tmp_path / "lights"), "--base", "tiny", url="http://127.0.0.1:1")[0] == 2


def test_an_answer_that_could_not_be_scored_exits_with_1(run: Run, tmp_path: Path) -> None:
    data = str(write_example(tmp_path) / "test.jsonl")
    (tmp_path / "mine.py").write_text("def mine(answer, expected):\n    return 1 / (expected == 'go')\n")
    code, output = run(data, "--arm", "a=tiny", "--arm", "b=lights", "--scorer", "mine.py:mine")
    assert (code, "24 answers could not be scored" in output) == (1, True), output


def test_another_scorer_scores_the_answers_that_are_there(run: Run, lights: TrafficLightServer, tmp_path: Path) -> None:
    data = str(write_example(tmp_path) / "test.jsonl")
    mine, arms = tmp_path / "mine.py", ("--arm", "a=tiny", "--arm", "b=lights", "--scorer", "mine.py:mine")
    mine.write_text("def mine(answer, expected):\n    raise RuntimeError('not yet')\n")
    code, output = run(data, *arms)
    assert (code, "nothing can be compared: RuntimeError: not yet" in output) == (2, True), output
    mine.write_text("def mine(answer, expected):\n    return answer == expected\n")
    assert "“b” is better than “a” by 0.50" in run(data, *arms)[1]
    mine.write_text("def mine(answer, expected):\n    return answer != expected\n")
    assert "The scorer is in doubt" in run(data, *arms)[1]
    assert len(lights.requests) == 48
    code, output = run(data, *arms, "--concurrency", "8")
    assert (code, "another comparison" in output) == (2, True)


def test_the_last_pass_is_the_last_one_asked_for(run: Run, tmp_path: Path) -> None:
    folder = str(write_example(tmp_path))
    assert run(folder, "--passes", "warm")[0] == run(folder, "--passes", "cold,warm")[0] == 0
    report = json.loads((tmp_path / "comparisons" / "lights" / "report.json").read_text())
    assert [found["pass_"] for found in report["passes"]] == ["cold", "warm"]


def test_readmes_get_their_tables(run: Run, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("<!-- results: written by loramux compare -->\n<!-- end of results -->\n")
    assert run(str(write_example(tmp_path)), "--readme", "README.md")[0] == 0
    assert "is better than" in (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").write_text("no marks")
    assert run(str(tmp_path / "lights"), "--readme", "README.md")[0] == 2


def test_a_scorer_is_a_type_a_function_or_yaml(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def mine(answer, expected):\n    return 1\n")
    assert parse_scorer("chrf").type == "chrf"
    assert parse_scorer("json").type == "json"
    assert parse_scorer("label").type == "label"
    assert parse_scorer("{type: label, labels: [a, b]}").type == "label"
    assert parse_scorer(f"{tmp_path / 'mine.py'}:mine").type == "function"
    for wrong in ("guess", "{type: label", "mine.py:gone", f"{tmp_path / 'mine.py'}:theirs", "json:"):
        with pytest.raises(ComparisonError, match="--scorer"):
            parse_scorer(wrong)
