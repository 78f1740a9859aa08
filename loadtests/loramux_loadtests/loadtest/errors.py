"""Errors that end a load test."""


class LoadTestError(Exception):
    """The load test can't start or continue: an invalid file, an unknown route or an unreachable server."""


class NoRequestError(LoadTestError):
    """The load ends before its first request, which is possible with few random arrivals."""


class ServerGoneError(LoadTestError):
    """The server stopped accepting connections during the load."""
