"""Names of models that unfinished jobs will make: nothing else may take them, or hours of training would be lost."""

from sqlalchemy import Connection, select

from loramux_adapters.finetuning.jobs.states import JobState
from loramux_adapters.finetuning.jobs.tables import jobs
from loramux_adapters.models import AdapterName

_ENDED = [state for state in JobState if state.has_ended]


def is_name_of_unfinished_job(connection: Connection, name: AdapterName) -> bool:
    """Whether a job that has not ended, on any base, will make a model of this name."""
    unfinished = select(jobs.c.id).where(jobs.c.name == name, jobs.c.state.not_in(_ENDED)).limit(1)
    return connection.execute(unfinished).first() is not None
