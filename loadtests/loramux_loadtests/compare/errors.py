"""The errors that end a comparison."""


class ComparisonError(Exception):
    """A comparison can't start or finish: a file is missing, a setting is wrong, or a server refused a request."""


class RequestFailedError(ComparisonError):
    """A server refused a request, or did not answer it; `status` is that of HTTP, 0 without a response."""

    def __init__(self, message: str, arm: str, status: int) -> None:
        super().__init__(message)
        self.arm, self.status = arm, status
