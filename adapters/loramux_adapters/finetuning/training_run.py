"""The parameters of one training run: a JSON file that the parent writes and the trainer process reads."""

import json
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

from loramux_adapters.base_description import BaseDescription
from loramux_adapters.finetuning.chat_rendering import ChatRendering
from loramux_adapters.finetuning.recipes.memory_demand import Quantize
from loramux_adapters.finetuning.recipes.recipe import Recipe


class TrainingRun(BaseModel):
    """The inputs and the output of one training run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: Path
    """Folder of the base model."""
    description: BaseDescription
    """The base's name, which is recorded in the adapter, and its modules."""
    data: Path
    """Training file: OpenAI chat conversations (JSONL)."""
    output: Path
    """Folder to write the adapter to."""
    recipe: Recipe | None = None
    """None: chosen by the size of the data and of the base."""
    validation: Path | None = None
    """File in the format of `data` that is not trained on."""
    initial_adapter: Path | None = None
    """Folder with PEFT's files of the adapter that the training goes on from; None: a new one is trained."""
    rendering: ChatRendering = ChatRendering()
    """How conversations are rendered where the adapter will be served."""
    state: Path | None = None
    """Folder of the training states; None: nothing is saved to resume from."""
    save_seconds: Annotated[float, Field(ge=0)] = 30.0
    """Longest time between two saved states: how much training a kill may cost."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    quantize: Quantize = "auto"
    """Whether the base is held in 4 bits on a GPU: where it does not fit otherwise, never, or always."""
    unquantized_base: Path | None = None
    """Folder of the base's unquantized weights, if those of `base` are quantized; None: those of `base`."""
    served_dtype: str | None = None
    """The dtype in which the base is served, to be told to the user; None if it is not known."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads; None: torch's default."""

    def write(self, path: Path) -> None:
        """Write the run to a JSON file.

        Raises:
            OSError: the file can't be written.
        """
        # Not pydantic's own JSON, which refuses paths that are not UTF-8.
        path.write_text(json.dumps(self.model_dump(mode="json")), encoding="ascii")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a run from the file that `write` made.

        Raises:
            OSError: the file can't be read.
            ValueError: it is not a run.
        """
        return cls.model_validate(json.loads(path.read_bytes()))
