"""The error that ends a comparison."""


class ComparisonError(Exception):
    """A comparison can't start or finish: a file is missing, a setting is wrong, or a server refused a request."""
