"""The scheduler reports the work of a step that vLLM's outputs do not show."""

from types import SimpleNamespace
from typing import Any

from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs

from loramux_server.engine.work_reports import WORK_REPORT, ReportingScheduler


class FakeScheduler:
    """A scheduler whose step gives each sampled request an output, and forgets those that have ended."""

    def __init__(self, clients: dict[str, int], ended: tuple[str, ...] = ()) -> None:
        self.requests = {name: SimpleNamespace(client_index=client) for name, client in clients.items()}
        self.ended = ended

    def update_from_output(self, _: Any, model_output: Any) -> dict[int, EngineCoreOutputs]:
        """Return the outputs by client."""
        outputs: dict[int, EngineCoreOutputs] = {}
        for name, tokens in zip(model_output.req_id_to_index, model_output.sampled_token_ids, strict=True):
            if name in self.requests and tokens:
                client = self.requests[name].client_index
                outputs.setdefault(client, EngineCoreOutputs(outputs=[])).outputs.append(EngineCoreOutput(name, tokens))
        for name in self.ended:
            self.requests.pop(name)
        return outputs


class Scheduler(ReportingScheduler, FakeScheduler):
    """The one under test."""


def step(scheduler: Scheduler, scheduled: dict[str, int], sampled: dict[str, list[int]], **drafts: list[int]) -> Any:
    """Return all outputs of a step by client, as pairs of request id and tokens."""
    names = list(scheduled)
    outputs = scheduler.update_from_output(
        SimpleNamespace(
            num_scheduled_tokens=scheduled,
            total_num_scheduled_tokens=sum(scheduled.values()),
            scheduled_spec_decode_tokens=drafts,
        ),
        SimpleNamespace(
            req_id_to_index={name: index for index, name in enumerate(names)},
            sampled_token_ids=[sampled.get(name, []) for name in names],
        ),
    )
    return {
        client: [(each.request_id, each.new_token_ids) for each in found.outputs] for client, found in outputs.items()
    }


def test_a_step_of_decoding_has_no_reports() -> None:
    assert step(Scheduler({"a": 0, "b": 0}), {"a": 1, "b": 1}, {"a": [5], "b": [6]}) == {0: [("a", [5]), ("b", [6])]}


def test_a_chunk_of_a_prompt_is_reported_with_its_tokens_and_its_last_chunk_is_not() -> None:
    scheduler = Scheduler({"long": 0, "done": 0, "other": 1})
    assert step(scheduler, {"long": 64, "done": 30, "other": 8}, {"done": [7]}) == {
        0: [(f"{WORK_REPORT}long", [64]), ("done", [7])],
        1: [(f"{WORK_REPORT}other", [8])],
    }


def test_drafts_are_reported_whether_they_are_accepted_or_not() -> None:
    scheduler = Scheduler({"a": 0, "b": 0})
    found = step(scheduler, {"a": 4, "b": 4}, {"a": [5], "b": [6, 7, 8]}, a=[1, 2, 3], b=[6, 7, 9])
    assert found == {0: [(f"{WORK_REPORT}b", [3]), (f"{WORK_REPORT}a", [3]), ("a", [5]), ("b", [6, 7, 8])]}


def test_requests_that_ended_in_the_step_or_before_it_do_no_harm() -> None:
    scheduler = Scheduler({"a": 0, "b": 0}, ended=("a",))
    found = step(scheduler, {"gone": 9, "a": 3, "b": 9}, {"a": [5]}, a=[1, 2])
    assert found == {0: [(f"{WORK_REPORT}b", [9]), (f"{WORK_REPORT}a", [2]), ("a", [5])]}


def test_steps_do_not_share_their_reports() -> None:
    for _ in range(2):
        assert step(Scheduler({"a": 0}), {"a": 9}, {}) == {0: [(f"{WORK_REPORT}a", [9])]}
