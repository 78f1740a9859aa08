"""One run of the real trainer; test_trainer.py has more, which take longer."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from loramux_adapters.finetuning.events import Finished, Started, Step
from tests.helpers.real_trainer import RECIPE, make_inputs, train, training_run


@pytest.mark.slow
def test_the_real_trainer_trains_an_adapter(tmp_path: Path) -> None:
    run = training_run(make_inputs(tmp_path), recipe=RECIPE.model_copy(update={"epochs": 2}))
    started, *steps, finished = train(run)
    assert isinstance(started, Started)
    assert isinstance(finished, Finished)
    assert (started.examples, started.steps) == (10, 6)
    losses = [step.loss for step in steps if isinstance(step, Step)]
    assert len(losses) == 6
    assert losses[-1] < losses[0]
    assert json.loads((run.output / "adapter_config.json").read_bytes())["r"] == 4
    with safe_open(run.output / "adapter_model.safetensors", "numpy") as file:
        assert len(set(file.keys())) == 8
