"""What ends a load test."""


class LoadTestError(Exception):
    """A load test that can't be made or can't go on: a broken file, a route or a server that is not there."""


class NoRequestError(LoadTestError):
    """The load ends before its first request, as one of few random arrivals may."""


class ServerGoneError(LoadTestError):
    """The server stopped taking connections in the middle of the load."""
