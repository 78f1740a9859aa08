import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramux_adapters.finetuning.events import (
    Checkpointed,
    Failed,
    Finished,
    Paused,
    Saved,
    Started,
    Step,
    TrainerEvent,
    Validated,
    Warned,
    parse_event,
)
from loramux_adapters.finetuning.recipes.recipe import Recipe


@pytest.mark.parametrize(
    "event",
    [
        Started(examples=8, steps=2, trained_parameters=2, base_parameters=200, resumed_step=1, recipe=Recipe()),
        Started(examples=8, steps=2, trained_parameters=2, base_parameters=200, precision="float16", memory="parts"),
        Warned(message="Training runs on cpu"),
        Step(step=1, steps=2, epoch=0.5, loss=0.25, learning_rate=2e-3, tokens=64, seconds=1.5, seconds_left=1.5),
        Validated(step=2, loss=0.5, token_accuracy=0.75),
        Checkpointed(step=2, folder="checkpoints/step-2"),
        Saved(step=2),
        Paused(step=2),
        Finished(size=1024, seconds=2, tokens=128),
        Failed(message="the base has no chat template"),
    ],
)
def test_an_event_survives_its_line(event: TrainerEvent) -> None:
    line = event.model_dump_json()
    assert "\n" not in line
    assert parse_event(line) == event


@given(line=st.binary(max_size=100) | st.text(max_size=100))
def test_a_line_that_is_not_an_event_raises_a_value_error(line: bytes | str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_event(line)


@pytest.mark.parametrize(
    "line", ['{"event": "saved"}', '{"event": "saved", "step": 1, "more": 2}', '{"event": "unheard-of"}', '{"step": 1}']
)
def test_a_line_with_missing_or_unknown_fields_is_not_an_event(line: str) -> None:
    with pytest.raises(ValueError, match=r"event|step|more"):
        parse_event(line)
