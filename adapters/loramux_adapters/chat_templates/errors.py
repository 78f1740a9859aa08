"""The errors of chat templates that do not render."""


class RenderingError(Exception):
    """A chat template is malformed, refuses the conversation, or exceeds its limits; the message says which."""


class LimitExceededError(RenderingError):
    """A chat template takes too much time or memory."""
