"""What keeps a comparison from being made."""


class ComparisonError(Exception):
    """It can't be made or finished: a missing file, a wrong setting, or a server that refused a request."""
