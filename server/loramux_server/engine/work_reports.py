"""Reports the work of engine steps that vLLM's outputs do not show, for the allocation of the engine's cost.

vLLM reports a request only when it has new tokens. A chunk of a long prompt has none, and the rejected drafts of
speculative decoding leave no trace. The scheduler reports both as outputs of request ids that no client has: vLLM's
output processor ignores them, and `engine/step_observer` counts them.
"""

from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
from vllm.v1.outputs import ModelRunnerOutput

WORK_REPORT = "loramux-work:"
"""Start of the request id of a report; the rest is the id of the request that the work was for."""


class ReportingScheduler:
    """A mixin for vLLM's schedulers."""

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> dict[int, EngineCoreOutputs]:
        """Return vLLM's outputs of a step, and reports of its other work, whose only token id is a token count."""
        clients = _clients(self, scheduler_output)
        outputs: dict[int, EngineCoreOutputs] = super().update_from_output(scheduler_output, model_runner_output)  # type: ignore[misc]
        for request_id, client in clients.items():
            if tokens := _unseen_tokens(request_id, scheduler_output, model_runner_output):
                report = EngineCoreOutput(request_id=WORK_REPORT + request_id, new_token_ids=[tokens])
                own = outputs.setdefault(client, EngineCoreOutputs(outputs=[]))
                # First, because the API process may forget a request that has ended before it reads the rest of a step.
                own.outputs = [report, *own.outputs]
        return outputs


def _clients(scheduler: Any, scheduled: SchedulerOutput) -> dict[str, int]:
    """Return the client of each request that may have unseen work; before the update, which frees ended requests."""
    if scheduled.total_num_scheduled_tokens == len(scheduled.num_scheduled_tokens):
        return {}  # one token for each: all decode
    found = ((each, scheduler.requests.get(each)) for each, n in scheduled.num_scheduled_tokens.items() if n > 1)
    return {each: request.client_index for each, request in found if request is not None}


def _unseen_tokens(request_id: str, scheduled: SchedulerOutput, output: ModelRunnerOutput) -> int:
    index = output.req_id_to_index.get(request_id)
    if index is None:
        return 0
    if not output.sampled_token_ids or not len(output.sampled_token_ids[index]):
        return int(scheduled.num_scheduled_tokens[request_id])  # a chunk of a prompt
    return len(scheduled.scheduled_spec_decode_tokens.get(request_id, ()))
