"""What can go wrong with training.

AdapterError                  adapter_error
└── TrainingError             training_failed
    ├── InvalidDataset        training_file_invalid
    ├── RefusedChat           chat_refused
    ├── InvalidRecipe         recipe_invalid
    ├── UnusableBase          training_base_unusable
    ├── TooLittleMemory       training_memory_short
    ├── AlreadyTraining       already_training
    ├── NoRoomLeft            training_disk_full
    └── TrainerCrashed        trainer_crashed
"""

# ruff: noqa: N818 - each name says what happened; that it is an error stands in the tree above.

from loramux_adapters.errors import AdapterError


class TrainingError(AdapterError):
    """No adapter came of a training."""

    code = "training_failed"


class InvalidDataset(TrainingError):
    """A training file that can't be used; `problems` holds (line number, reason) of the first ones."""

    code = "training_file_invalid"

    def __init__(self, name: str, problems: list[tuple[int, str]]) -> None:
        self.problems = problems
        lines = "\n".join(f"  line {number}: {reason}" for number, reason in problems)
        super().__init__(f"{name} is not a chat fine-tuning file:\n{lines}")


class RefusedChat(TrainingError):
    """A conversation that the base's chat template has no form for, such as two user messages in a row."""

    code = "chat_refused"


class InvalidRecipe(TrainingError):
    """A recipe that can't be followed, with the keys that are wrong."""

    code = "recipe_invalid"


class UnusableBase(TrainingError):
    """A folder that no adapter can be trained on, or not with this recipe."""

    code = "training_base_unusable"


class TooLittleMemory(TrainingError):
    """A training that would not fit beside what is in memory already; nothing was loaded."""

    code = "training_memory_short"


class AlreadyTraining(TrainingError):
    """Another trainer works with the same state."""

    code = "already_training"


class NoRoomLeft(TrainingError):
    """The disk was full; what was saved before is there, and the training goes on from it once there is room."""

    code = "training_disk_full"


class TrainerCrashed(TrainingError):
    """The trainer's process ended without a reason that the user could mend; the message ends with its last words."""

    code = "trainer_crashed"
