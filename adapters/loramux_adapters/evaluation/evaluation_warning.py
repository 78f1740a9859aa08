"""A problem of an evaluation's data, answers or scores that a reader must know before the verdict."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

WarningCode = Literal[
    "leak",
    "near_leak",
    "contradiction",
    "wrong_label",
    "same_scores",
    "never_right",
    "changed_measure",
    "truncated_answers",
    "empty_answers",
    "replaced_system_message",
    "untrained_system_message",
]


class EvaluationWarning(BaseModel):
    """A warning: a code for programs, a sentence part for people, and the items that it is about, if some are."""

    model_config = ConfigDict(frozen=True)

    code: WarningCode
    message: str
    items: tuple[int, ...] = ()
    """The items: of a job, line numbers of its validation file, the first one is 1."""
