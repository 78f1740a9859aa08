"""Experiments that start and end in any order: an adapter has at most one, and users stay on their variants."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from loramux_adapters.models import AdapterName
from loramux_server.experiments.assignment import assign
from loramux_server.experiments.errors import ExperimentRunning
from loramux_server.experiments.models import State
from loramux_server.experiments.repository import ExperimentRepository
from tests.helpers.experiment_records import BASELINE_CONFIG, experiment_of
from tests.helpers.migrated_database import migrated_database

ENDS = [state for state in State if state is not State.RUNNING]


class ExperimentMachine(RuleBasedStateMachine):
    """Starts and ends experiments of three adapters, and assigns users in between."""

    started = Bundle("started")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.repository = ExperimentRepository(migrated_database(Path(self.folder.name) / "database.sqlite3"))
        self.running: dict[str, str] = {}
        self.ended: dict[str, State] = {}
        self.assigned: dict[tuple[str, str], str] = {}
        self.count = 0

    @rule(target=started, adapter=st.sampled_from(["a", "b", "c"]), share=st.floats(0.05, 0.95))
    def start(self, adapter: str, share: float) -> str:
        self.count += 1
        experiment_id = f"exp_{self.count}"
        config = BASELINE_CONFIG.model_copy(update={"adapter": AdapterName(adapter), "share": share})
        if adapter in self.running:
            with pytest.raises(ExperimentRunning):
                self.repository.add(experiment_of(config, experiment_id))
            return self.running[adapter]
        self.repository.add(experiment_of(config, experiment_id))
        self.running[adapter] = experiment_id
        return experiment_id

    @rule(experiment_id=consumes(started), state=st.sampled_from(ENDS))
    def end(self, experiment_id: str, state: State) -> None:
        was_running = experiment_id in self.running.values()
        assert self.repository.end(experiment_id, state, "", 1.0, {}, None) is was_running
        if was_running:
            self.ended[experiment_id] = state
        self.running = {adapter: running for adapter, running in self.running.items() if running != experiment_id}

    @rule(experiment_id=started, user=st.sampled_from(["x", "y", "ü"]))
    def ask(self, experiment_id: str, user: str) -> None:
        variant = assign(self.repository.get(experiment_id), user).variant.name
        assert self.assigned.setdefault((experiment_id, user), variant) == variant

    @invariant()
    def the_database_agrees(self) -> None:
        found = {experiment.config.adapter: experiment.id for experiment in self.repository.running()}
        assert found == self.running
        assert {name: self.repository.get(name).state for name in self.ended} == self.ended

    def teardown(self) -> None:
        self.repository._database.dispose()
        self.folder.cleanup()


TestExperimentMachine = ExperimentMachine.TestCase
TestExperimentMachine.settings = settings(max_examples=12, stateful_step_count=12, deadline=None)
