"""What the body of a job asks for: no hyperparameter is ignored."""

from typing import Any

import pytest
from pydantic import ValidationError

from loramux_server.api.fine_tuning.requests import CreateJob


def body(**values: Any) -> CreateJob:
    return CreateJob.model_validate({"model": "tiny", "training_file": "file-1"} | values)


def test_hyperparameters_are_those_of_the_method() -> None:
    method = {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2, "n_epochs": 3, "batch_size": None}}}
    asked = body(method=method).requested_hyperparameters
    assert (asked.method, asked.beta, asked.hyperparameters.n_epochs, asked.hyperparameters.batch_size) == (
        "dpo",
        0.2,
        3,
        "auto",
    )


@pytest.mark.parametrize("method", [None, {"type": "supervised"}, {"type": "dpo"}, {"type": "supervised", "dpo": None}])
def test_the_deprecated_field_applies_to_every_method_that_has_none_of_its_own(method: Any) -> None:
    asked = body(method=method, hyperparameters={"n_epochs": 7}).requested_hyperparameters
    assert asked.hyperparameters.n_epochs == 7


@pytest.mark.parametrize("name", ["supervised", "dpo"])
def test_hyperparameters_in_two_places_are_refused(name: str) -> None:
    method = {"type": name, name: {"hyperparameters": {"batch_size": 2}}}
    with pytest.raises(ValidationError, match="in both places"):
        body(method=method, hyperparameters={"n_epochs": 7})


@pytest.mark.parametrize(("name", "other"), [("supervised", "dpo"), ("dpo", "supervised")])
def test_the_settings_of_another_method_are_refused(name: str, other: str) -> None:
    with pytest.raises(ValidationError, match=f"{other}: expected `{name}` alone"):
        body(method={"type": name, other: {"hyperparameters": {"n_epochs": 7}}})


def test_null_is_absent_in_lists_too() -> None:
    wandb = {"project": "p", "name": None, "tags": None}
    assert body(integrations=[{"type": "wandb", "wandb": wandb}]).integration_documents == [
        {"type": "wandb", "wandb": {"project": "p"}}
    ]


@pytest.mark.parametrize("opening", ['{"a":', "["])
def test_a_body_that_is_nested_too_deeply_is_refused(opening: str) -> None:
    nested: Any = 1
    for _ in range(700):
        nested = {"a": nested} if opening != "[" else [nested]
    with pytest.raises(ValidationError, match="nested too deeply"):
        body(metadata=nested)
