from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from loramux_server.importing.source_job import SourceJob

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)
FIELDS = ("id", "status", "model", "fine_tuned_model", "training_file", "method", "hyperparameters", "suffix", "seed")


@given(st.fixed_dictionaries({}, optional=dict.fromkeys((*FIELDS, "metadata", "integrations", "created_at"), JSON)))
def test_any_answer_of_a_provider_is_a_job_or_a_validation_error(data: dict[str, Any]) -> None:
    try:
        job = SourceJob.parse(data)
    except ValidationError:
        return
    assert SourceJob.parse(job.as_manifest_entry()) == job
    assert job.suffix is None or (len(job.suffix) <= 64 and job.suffix[0].isalnum())
    assert job.name.isprintable() or not job.name.isascii()
    assert job.chosen is not None


@pytest.mark.parametrize(
    ("job", "suffix"),
    [
        ({"fine_tuned_model": "ft:gpt-4o-mini-2024-07-18:acme:tone:abc123"}, "tone"),
        ({"fine_tuned_model": "ft:gpt-4o-mini-2024-07-18:acme::abc123"}, None),
        ({"fine_tuned_model": "me/Llama-3-8b-0123"}, None),
        ({"fine_tuned_model": "ft:a:b:tone:c", "suffix": "own"}, "own"),
        ({"suffix": "Ton & Stil!"}, "Ton-Stil-"),
        ({"suffix": "../../etc"}, "etc"),
        ({"suffix": "x" * 100}, "x" * 64),
    ],
)
def test_the_suffix_is_the_job_s_or_that_of_its_model_s_name(job: dict[str, Any], suffix: str | None) -> None:
    assert SourceJob.parse({"id": "ftjob-1", **job}).suffix == suffix


def test_hyperparameters_are_those_of_the_method_or_of_the_deprecated_field() -> None:
    own = {"n_epochs": 3, "beta": 0.1}
    dpo = {"id": "a", "method": {"type": "dpo", "dpo": {"hyperparameters": own}}, "hyperparameters": None}
    assert SourceJob.parse(dpo).chosen.beta == 0.1
    old = {"id": "a", "method": {"type": "supervised", "supervised": None}, "hyperparameters": {"n_epochs": 4}}
    assert SourceJob.parse(old).chosen.n_epochs == 4


def test_a_job_of_a_hand_written_manifest_needs_only_a_training_file() -> None:
    assert SourceJob.parse({"training_file": "data/tone.jsonl"}).id == "tone"
    assert SourceJob.parse({"training_file": "a.jsonl", "fine_tuned_model": "ft:a:b:c:d"}).id == "ft:a:b:c:d"
    with pytest.raises(ValidationError):
        SourceJob.parse({"status": "succeeded"})
