"""Errors of training.

AdapterError                  adapter_error
└── TrainingError             training_failed
    ├── InvalidDataset        training_file_invalid
    ├── ChatTemplateError     chat_refused
    ├── InvalidRecipe         recipe_invalid
    ├── UnusableBase          training_base_unusable
    ├── InsufficientMemory    training_memory_short
    ├── AlreadyTraining       already_training
    ├── DiskFull              training_disk_full
    └── TrainerCrashed        trainer_crashed
"""

# ruff: noqa: N818 - each name says what happened; the tree above shows that it is an error.

from loramux_adapters.errors import AdapterError


class TrainingError(AdapterError):
    """A training run failed, and made no adapter."""

    code = "training_failed"


class InvalidDataset(TrainingError):
    """A training file that can't be used; `problems` holds (line number, reason) of the first problems."""

    code = "training_file_invalid"

    def __init__(self, name: str, problems: list[tuple[int, str]]) -> None:
        self.problems = problems
        lines = "\n".join(f"  line {number}: {reason}" for number, reason in problems)
        super().__init__(f"{name} is not a valid training file:\n{lines}")


class ChatTemplateError(TrainingError):
    """A conversation that the base's chat template can't render, such as two user messages in a row."""

    code = "chat_refused"


class InvalidRecipe(TrainingError):
    """A recipe that is not valid; the message names the keys that are wrong."""

    code = "recipe_invalid"


class UnusableBase(TrainingError):
    """A folder that is no base model, or a base that can't be trained with this recipe."""

    code = "training_base_unusable"


class InsufficientMemory(TrainingError):
    """A training run that would not fit in the free memory; nothing was loaded."""

    code = "training_memory_short"


class AlreadyTraining(TrainingError):
    """Another trainer uses the same state folder."""

    code = "already_training"


class DiskFull(TrainingError):
    """The disk is full; training resumes from the last saved state once there is space."""

    code = "training_disk_full"


class TrainerCrashed(TrainingError):
    """The trainer process exited for a reason that the user can't fix; the message ends with the end of its log."""

    code = "trainer_crashed"
