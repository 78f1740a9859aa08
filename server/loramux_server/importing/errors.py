"""Errors of an import. Each message says what is wrong and what helps; running the command again goes on."""


class ImportingError(Exception):
    """The import can't start or go on."""


class ProviderError(ImportingError):
    """The provider, or what answers in its place, can't be reached or refuses."""


class ContentGoneError(ProviderError):
    """The provider has no such file or model any more."""


class RefusedError(ImportingError):
    """The loramux server refuses a file or a job; the message is the server's."""


class QueueFullError(ImportingError):
    """The loramux server takes no more jobs before one has started."""
