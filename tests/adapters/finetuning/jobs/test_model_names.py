import pytest
import sqlalchemy as sa

from loramux_adapters.errors import AliasConflict
from loramux_adapters.finetuning.jobs.model_names import is_name_of_unfinished_job
from loramux_adapters.finetuning.jobs.states import JobState
from loramux_adapters.finetuning.jobs.tables import jobs
from loramux_adapters.models import parse_adapter_name
from loramux_adapters.registry.model_aliases import ModelAliasRegistry
from tests.helpers.fine_tuning_jobs import NAME
from tests.helpers.registry_records import at


def job(state: JobState) -> dict[str, object]:
    values = {"id": "ftjob-1", "created_at": 1.0, "created_by": "me", "state": state, "base": "tiny", "name": NAME}
    return values | {"training_file": "file-1", "seed": 1, "wanted": {}, "attempts": 0, "result_files": []}


@pytest.mark.parametrize("state", JobState)
def test_no_alias_takes_the_name_of_an_unfinished_job_s_model(engine: sa.Engine, state: JobState) -> None:
    with engine.begin() as connection:
        connection.execute(sa.insert(jobs).values(job(state)))
    aliases = ModelAliasRegistry(engine, is_name_of_unfinished_job)
    aliases.set(parse_adapter_name("another"), "tiny", at(1.0))
    if state.has_ended:
        aliases.set(NAME, "tiny", at(1.0))
    else:
        with pytest.raises(AliasConflict, match=f"{NAME} will be the name of a fine-tuning job's model"):
            aliases.set(NAME, "tiny", at(1.0))
    assert len(aliases.all()) == 1 + state.has_ended
