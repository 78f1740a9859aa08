"""The order in which runs are handed to the engine: fair by work, never idle, nobody passed forever."""

from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loramux_server.fairness.priority import Priority
from loramux_server.fairness.scheduler import OUTPUT_WEIGHT, FairScheduler, Flow, ScheduledRun, Weights
from loramux_server.fairness.window import Demand, EngineWindow, WindowSize

SLACK = 200.0
MAX_PROMPT, MAX_OUTPUT = 40, 20
A, B = Flow("a", None), Flow("b", None)


@dataclass(eq=False)
class Progress:
    """What the simulated engine has done for a run."""

    cached_tokens: int | None = None
    output_tokens: int = 0


@dataclass
class Simulation:
    """An engine that gives each of its runs one token per step, and a scheduler in front of it."""

    size: WindowSize = field(default_factory=lambda: WindowSize(8, 100, 4))
    weights: Weights = field(default_factory=Weights)
    queue_tokens: int | None = None
    now: float = 0.0

    def __post_init__(self) -> None:
        self.window = EngineWindow(self.size)
        self.scheduler = FairScheduler(self.window, SLACK, self.weights, self.queue_tokens, lambda: self.now)
        self.running: list[ScheduledRun] = []
        self.runs: list[ScheduledRun] = []
        self.work: dict[str, float] = {}

    def ask(
        self, flow: Flow, prompt: int = 10, output: int = 10, sequences: int = 1, version: str | None = None
    ) -> ScheduledRun:
        demand = Demand(prompt, sequences, version or flow.adapter)
        granted: list[ScheduledRun] = []
        run = ScheduledRun(flow, demand, output, Progress(), lambda: self.running.extend(granted))
        granted.append(run)
        self.runs.append(run)
        self.scheduler.enqueue(run)
        return run

    def step(self) -> None:
        """Compute a token of each sequence of all runs, and end those that are complete."""
        self.now += 0.1
        for run in list(self.running):
            before = run.work
            if not run.has_started:
                self.scheduler.start(run)
                before = 0.0
            run.progress.output_tokens += run.demand.sequences
            self.work[run.flow.key] = self.work.get(run.flow.key, 0.0) + run.work - before
            if run.progress.output_tokens >= (run.max_tokens or 1) * run.demand.sequences:
                self.end(run)

    def end(self, run: ScheduledRun) -> None:
        if run in self.running:
            self.running.remove(run)
        self.scheduler.end(run)

    def flood(self, flow: Flow, waiting: int = 30) -> None:
        """Keep `waiting` runs of a flow in the queue."""
        self.runs = [run for run in self.runs if run.is_waiting or run.is_running]
        for _ in range(waiting - sum(run.is_waiting and run.flow == flow for run in self.runs)):
            self.ask(flow)


def test_a_run_is_granted_at_once_while_there_is_room() -> None:
    simulation = Simulation()
    assert all(simulation.ask(A).is_running for _ in range(simulation.size.sequences))
    assert simulation.ask(A).is_waiting


def test_runs_of_one_flow_are_served_in_the_order_of_their_arrival() -> None:
    simulation = Simulation()
    runs = [simulation.ask(A) for _ in range(20)]
    while simulation.scheduler.waiting:
        simulation.step()
        started = [run.is_running or not run.is_waiting for run in runs]
        assert started == sorted(started, reverse=True)


@given(st.floats(0.25, 4), st.data())
@settings(deadline=None, max_examples=15)
def test_two_that_always_ask_get_work_by_their_weights_whatever_the_sizes(weight: float, data: st.DataObject) -> None:
    simulation = Simulation(weights=Weights({"a": weight}))
    sizes = st.integers(1, MAX_PROMPT), st.integers(1, MAX_OUTPUT)
    asked = {flow: data.draw(st.lists(st.tuples(*sizes), min_size=5, max_size=5), flow.key) for flow in (A, B)}
    for number in range(120):
        for flow in (A, B):
            while sum(run.is_waiting for run in simulation.runs if run.flow is flow) < 9:
                simulation.ask(flow, *asked[flow][number % 5])
        simulation.step()
        simulation.runs = [run for run in simulation.runs if run.is_waiting or run.is_running]
        ahead = abs(simulation.work.get("a", 0) / weight - simulation.work.get("b", 0))
        # The bound of the paper: what the window holds, for who has the lowest weight.
        window = simulation.size.sequences * (MAX_PROMPT + OUTPUT_WEIGHT * MAX_OUTPUT)
        assert ahead <= 2 * window / min(1, weight)


def test_who_was_away_has_no_credit_and_no_debt() -> None:
    simulation = Simulation()
    for _ in range(300):
        simulation.flood(A)
        simulation.step()
    before = dict(simulation.work)
    for _ in range(300):
        simulation.flood(A)
        simulation.flood(B)
        simulation.step()
    gained = {key: work - before.get(key, 0) for key, work in simulation.work.items()}
    assert gained["a"] == pytest.approx(gained["b"], rel=0.25)


def test_a_light_user_never_waits_for_one_who_floods() -> None:
    simulation = Simulation(WindowSize(16, 1000, 4))
    waits = []
    for number in range(200):
        simulation.flood(A)
        if number % 10 == 0:
            waits.append(simulation.ask(B, output=15))
        simulation.step()
    late = [run for run in waits[1:] if run.waited > 0.1]
    assert not late
    assert simulation.window.sequences >= 16 - simulation.size.max_reserve


def test_a_light_user_with_several_requests_at_a_time_does_not_wait_for_a_wave_of_equal_ones_to_end() -> None:
    simulation = Simulation(WindowSize(32, 10_000, 4))
    light = []
    for number in range(600):
        simulation.flood(A, 300)
        if number % 3 == 0:
            light.append(simulation.ask(B, output=10))  # three or four at a time, of a quarter that may be free
        simulation.step()
    assert [run for run in light[10:] if run.waited > 0.1] == []


def test_when_light_users_are_gone_a_single_one_gets_the_whole_engine_again() -> None:
    simulation = Simulation(WindowSize(16, 10_000, 4))
    simulation.flood(A)
    simulation.end(simulation.ask(B))
    for _ in range(700):
        simulation.flood(A)
        simulation.step()
    assert simulation.window.sequences == 16


def test_a_rare_adapter_never_waits_for_a_hot_one_of_the_same_key() -> None:
    simulation = Simulation(WindowSize(16, 1000, 4))
    rare = []
    for number in range(300):
        simulation.flood(Flow("a", "hot"))
        if number % 10 == 0:
            rare.append(simulation.ask(Flow("a", f"rare-{number // 10 % 3}"), output=5))
        simulation.step()
    assert [run for run in rare[1:] if run.waited > 0.1] == []


def test_a_single_user_gets_the_whole_engine() -> None:
    simulation = Simulation(WindowSize(16, 1000, 4))
    simulation.flood(A)
    assert simulation.window.sequences == 16


def test_batches_leave_room_and_get_little_next_to_live_work_but_never_nothing() -> None:
    simulation = Simulation(WindowSize(16, 1000, 4))
    batch = Flow("b", None, Priority.BATCH)
    simulation.flood(batch, 100)
    assert simulation.window.sequences == 12
    for _ in range(600):
        simulation.flood(A)
        simulation.flood(batch)
        simulation.step()
    assert 0 < simulation.work["b"] < 0.1 * simulation.work["a"]


def test_interactive_work_comes_first_among_a_keys_own_and_changes_nothing_between_keys() -> None:
    simulation = Simulation()
    interactive = Flow("a", None, Priority.INTERACTIVE)
    served: set[ScheduledRun] = set()
    for _ in range(300):
        for flow in (A, interactive, B):
            simulation.flood(flow)
        simulation.step()
        served |= {run for run in simulation.running if run.flow.key == "a"}
    assert simulation.work["a"] == pytest.approx(simulation.work["b"], rel=0.1)
    assert sum(run.flow is interactive for run in served) > 8 * sum(run.flow is A for run in served)


def test_a_run_with_more_sequences_than_the_engine_has_gets_its_turn() -> None:
    simulation = Simulation()
    simulation.flood(A)
    big = simulation.ask(B, sequences=50)
    for _ in range(200):
        simulation.flood(A)
        simulation.step()
    assert not big.is_waiting


def test_an_adapter_without_a_slot_gets_its_turn_while_others_keep_theirs_busy() -> None:
    simulation = Simulation(WindowSize(8, 1000, 2))
    busy = [Flow("a", "one"), Flow("b", "two")]
    for flow in busy:
        simulation.flood(flow)
    third = simulation.ask(Flow("c", "three"))
    for _ in range(300):
        for flow in busy:
            simulation.flood(flow)
        simulation.step()
    assert not third.is_waiting


def test_prompts_in_the_engine_are_bounded_until_their_first_tokens() -> None:
    simulation = Simulation()
    runs = [simulation.ask(A, prompt=90) for _ in range(8)]
    assert [run.is_running for run in runs] == [True, True] + [False] * 6
    simulation.step()
    assert [run.is_running for run in runs] == [True] * 4 + [False] * 4


def test_a_prompt_in_the_cache_is_not_charged() -> None:
    simulation = Simulation()
    run = simulation.ask(A, prompt=40)
    run.progress.cached_tokens = 30
    assert run.work == 10


def test_a_full_queue_refuses_who_has_their_share_of_it_and_nobody_else() -> None:
    simulation = Simulation(queue_tokens=1000)
    while not simulation.scheduler.is_full_for(A):
        simulation.ask(A)
    assert simulation.scheduler.waiting_tokens == pytest.approx(1000, abs=50)
    assert not simulation.scheduler.is_full_for(B)
    assert not simulation.scheduler.is_full_for(Flow("a", "other"))
    while not simulation.scheduler.is_full_for(B):
        simulation.ask(B)
    assert simulation.scheduler.waiting_tokens <= 2000


def test_the_bound_of_the_queue_follows_the_size_of_runs() -> None:
    simulation = Simulation()
    before = simulation.scheduler.queue_bound
    for _ in range(300):
        simulation.flood(A)
        simulation.step()
    mean = 10 + OUTPUT_WEIGHT * 10
    assert simulation.scheduler.queue_bound == pytest.approx(4 * 8 * mean, rel=0.1)
    assert before > simulation.scheduler.queue_bound


def test_who_has_left_is_forgotten() -> None:
    simulation = Simulation()
    for number in range(200):
        simulation.ask(Flow(f"key-{number}", f"adapter-{number}"))
    for run in list(simulation.runs):
        simulation.end(run)
        simulation.end(run)  # as a run that ended in the engine does when its client has read the answer
    assert not simulation.scheduler._tree.root.children
    assert (simulation.window.sequences, simulation.window.waiting_prompt_tokens) == (0, 0)


FLOWS = [Flow(key, adapter, priority) for key in "abc" for adapter in (None, "x", "y") for priority in Priority]


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, int, int, int, int]]:
    kinds = st.sampled_from(["ask", "ask", "step", "leave"])
    sizes = st.integers(1, 150), st.integers(1, 30), st.integers(1, 12)
    return draw(st.lists(st.tuples(kinds, st.integers(0, 10_000), *sizes), min_size=1, max_size=120))


@given(histories(), st.integers(1, 12), st.integers(1, 3))
@settings(deadline=None, max_examples=60)
def test_whatever_happens_the_window_holds_the_engine_works_and_everyone_is_served(
    history: list[tuple[str, int, int, int, int]], sequences: int, versions: int
) -> None:
    simulation = Simulation(WindowSize(sequences, 100, versions))
    numbers = count()
    for kind, choice, prompt, output, parallel in history:
        if kind == "ask":
            flow = FLOWS[choice % len(FLOWS)]
            version = f"{flow.adapter}@{next(numbers) % 2}" if flow.adapter else None
            simulation.ask(flow, prompt, output, parallel, version)
        elif kind == "step":
            simulation.step()
        elif simulation.runs:
            simulation.end(simulation.runs[choice % len(simulation.runs)])
        check(simulation)
    for _ in range(40 * len(history)):
        if not simulation.running:
            break
        simulation.step()
        check(simulation)
    assert not any(run.is_waiting or run.is_running for run in simulation.runs)
    assert (simulation.window.sequences, simulation.window.waiting_prompt_tokens) == (0, 0)


def check(simulation: Simulation) -> None:
    running = [run for run in simulation.runs if run.is_running]
    assert set(running) == set(simulation.running)
    held = sum(run.demand.sequences for run in running)
    assert held == simulation.window.sequences
    assert held <= simulation.size.sequences or len(running) == 1
    assert len({run.demand.version for run in running} - {None}) <= simulation.size.versions
    waiting = [run for run in simulation.runs if run.is_waiting]
    assert len(waiting) == simulation.scheduler.waiting
    assert running or not waiting  # the engine is never idle while somebody waits
