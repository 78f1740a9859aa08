"""Trainings in the test's own process, so that devices, memory and errors can be faked; imports torch, PEFT and TRL."""

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model_state_dict

from loramux_adapters.finetuning.errors import TrainingError
from loramux_adapters.finetuning.events import Step, TrainerEvent, parse_event
from loramux_adapters.finetuning.recipes.memory_demand import MemoryDemand, TrainingDevice

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the libraries, about each other
    from loramux_adapters.finetuning.trainer import model, prepared_data, trainer_setup, training
    from loramux_adapters.finetuning.trainer.answer_loss import AnswerLossTrainer
    from loramux_adapters.finetuning.trainer.base_weights import find_weights
    from loramux_adapters.finetuning.trainer.model import load_model
    from loramux_adapters.finetuning.trainer.progress_reporter import PausedError, ProgressReporter

from loramux_adapters.finetuning.training_run import TrainingRun

__all__ = ["ROOMY", "TrainerHere", "Training", "find_weights", "largest_difference", "load_model"]

ROOMY = TrainingDevice("cpu", free_bytes=1 << 40, bytes_per_parameter=4)


@dataclass
class Training:
    """What a training did: its events, its adapter before it was rounded to bfloat16, and its trainers."""

    events: list[TrainerEvent] = field(default_factory=list)
    adapter: dict[str, torch.Tensor] = field(default_factory=dict)
    error: TrainingError | None = None

    @property
    def losses(self) -> list[float]:
        return [event.loss for event in self.events if isinstance(event, Step)]

    @property
    def steps(self) -> list[int]:
        return [event.step for event in self.events if isinstance(event, Step)]

    def of_kind(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


class TrainerHere:
    """Runs trainings on faked devices, in float32 unless another `dtype` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self.use_dtype(torch.float32)

    def fix_demand(self, example_tokens: int, answer_tokens: int) -> None:
        """Let the longest example and answer have these numbers of tokens, whatever the data are."""

        def demand(base: Any, recipe: Any, _: Any, weights: Any) -> MemoryDemand:
            return MemoryDemand(base, recipe, example_tokens, answer_tokens, weights.can_checkpoint)

        self._patch.setattr(prepared_data, "_memory_demand", demand)

    def change_trainers(self, change: Callable[[Any], None]) -> None:
        """Call `change` with each trainer before it trains."""

        def create(*arguments: Any, **options: Any) -> Any:
            trainer = trainer_setup.create_trainer(*arguments, **options)
            change(trainer)
            return trainer

        self._patch.setattr(training, "create_trainer", create)

    def use_dtype(self, dtype: torch.dtype) -> None:
        """Train in this dtype, whatever the processor has."""
        for module in (model, trainer_setup, training):
            self._patch.setattr(module, "select_dtype", lambda _: dtype)

    def run(
        self, run: TrainingRun, devices: Sequence[TrainingDevice] = (ROOMY,), pause_after: int | None = None
    ) -> Training:
        """Train, or resume, on the first of `devices` on which the training fits; pause after a step."""
        result, stream = Training(), io.StringIO()
        reporter = ProgressReporter(stream)
        if pause_after is not None:
            reporter.stream = stream = _PausingStream(reporter, pause_after)

        def record(trained: Any, base_name: str, output: Path) -> int:
            result.adapter = {
                name: tensor.detach().clone() for name, tensor in get_peft_model_state_dict(trained).items()
            }
            return 1

        self._patch.setattr(prepared_data, "candidate_devices", lambda _: list(devices))
        self._patch.setattr(training, "write_adapter", record)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # more would wait for each other: the base is tiny
        try:
            training.train(run, reporter)
        except PausedError:
            pass
        except TrainingError as error:
            result.error = error
        finally:
            torch.set_num_threads(threads)
        result.events = [parse_event(line) for line in stream.getvalue().splitlines()]
        return result

    def fail_forward(self, error: Exception, *, above: int, calls: Sequence[int] | None = None) -> None:
        """Let the forward pass of more than `above` examples raise `error`, or only its calls of these numbers."""
        original, count = AnswerLossTrainer.score, iter(range(10**6))

        def score(trainer: Any, causal: Any, inputs: Any) -> Any:
            number = next(count)
            if len(inputs["input_ids"]) > above and (calls is None or number in calls):
                raise error
            return original(trainer, causal, inputs)

        self._patch.setattr(AnswerLossTrainer, "score", score)


class _PausingStream(io.StringIO):
    """Asks a reporter to pause when it reports a step."""

    def __init__(self, reporter: ProgressReporter, step: int) -> None:
        super().__init__()
        self._reporter, self._step = reporter, step

    def write(self, text: str) -> int:
        if f'"event":"step","step":{self._step},' in text:
            self._reporter.pause_requested = True
        return super().write(text)


def largest_difference(left: Training, right: Training) -> float:
    """Return the largest difference of two adapters' weights, as a share of their largest weight."""
    assert left.adapter.keys() == right.adapter.keys() != set()
    differences = [(left.adapter[name] - right.adapter[name]).abs().max() for name in left.adapter]
    return float(max(differences) / max(tensor.abs().max() for tensor in left.adapter.values()))
