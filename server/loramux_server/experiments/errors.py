"""Errors of experiments and feedback.

AdapterError
├── ExperimentInvalid     experiment_invalid
├── ExperimentNotFound    experiment_not_found
├── ExperimentRunning     experiment_running
├── ExperimentEnded       experiment_ended
├── RequestNotFound       request_not_found
└── FeedbackClosed        feedback_closed
"""

# ruff: noqa: N818 - the names say what happened without the suffix "Error".

from loramux_adapters.errors import AdapterError


class ExperimentInvalid(AdapterError):
    """The experiment can't be done as asked."""

    code = "experiment_invalid"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ExperimentNotFound(AdapterError):
    """There is no experiment with this id."""

    code = "experiment_not_found"


class ExperimentRunning(AdapterError):
    """An experiment is running for the adapter, which a change of its name would falsify."""

    code = "experiment_running"


class ExperimentEnded(AdapterError):
    """The experiment has ended already."""

    code = "experiment_ended"


class RequestNotFound(AdapterError):
    """No request of this API key has this id, or it is too old."""

    code = "request_not_found"


class FeedbackClosed(AdapterError):
    """The feedback on this request was given too long ago to be changed."""

    code = "feedback_closed"
