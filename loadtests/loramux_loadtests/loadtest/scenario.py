"""A scenario: which requests are sent to a server, and how a server that is started for it is set up.

A relative path in a scenario (a trace, a corpus, training data) is looked up in the scenario's folder, then in the
current folder. `examples/...` is looked up in the installed package too: `examples/support-intent/train.jsonl`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator

from loramux_loadtests.examples import PACKAGE
from loramux_loadtests.loadtest.arrivals import Arrivals, Trace
from loramux_loadtests.loadtest.errors import LoadTestError
from loramux_loadtests.loadtest.files import first_validation_error, read_text
from loramux_loadtests.loadtest.goals import parse_goal
from loramux_loadtests.loadtest.mix import BASE, Mix
from loramux_loadtests.loadtest.prompts import InputOptions, OutputOptions

SCENARIOS = Path(__file__).parents[1] / "scenarios"
"""Folder of the built-in scenarios."""
EXAMPLES_PREFIX = "examples"
MAX_BYTES = 1 << 20

Seconds = Annotated[float, Field(gt=0, le=7 * 24 * 3600, allow_inf_nan=False)]


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WarmUp(_Options):
    """Requests before the load, to the `routes` in turn, a few at a time. They are not part of the results."""

    requests: Annotated[int, Field(ge=0, le=100_000)] = 8
    routes: tuple[str, ...] = (BASE,)


class ServerOptions(_Options):
    """Setup of a server that is started for the scenario: adapters and vLLM arguments (Python names)."""

    examples: bool = False
    """Whether it has the three example adapters."""
    rank: Annotated[int, Field(ge=1, le=512)] = 8
    """Rank of the synthetic adapters, whose number is the mix's `adapters`."""
    small: bool = False
    """Whether synthetic adapters are on one module of one layer only, which is enough if only their number matters."""
    engine: Mapping[str, str | int | float | bool] = {}


class FineTuningOptions(_Options):
    """A fine-tuning job that starts `after` seconds of the load, and is cancelled when the load ends."""

    data: Path
    after: Annotated[float, Field(ge=0, le=24 * 3600)] = 30.0


class Scenario(_Options):
    """Everything that determines the requests and their times; together with a seed, exactly."""

    title: Annotated[str, Field(min_length=1, max_length=200)]
    about: str = ""
    arrivals: Arrivals
    mix: Mix
    input: InputOptions = InputOptions()
    output: OutputOptions = OutputOptions()
    requests: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    duration: Seconds | None = None
    warm_up: WarmUp = WarmUp()
    goal: str | None = None
    window: Seconds = 60.0
    """Length in seconds of the windows that are compared for drift."""
    drain: Seconds = 120.0
    """Seconds to wait for answers after the last request was sent; later answers are abandoned."""
    timeout: Seconds = 600.0
    server: ServerOptions = ServerOptions()
    fine_tuning: FineTuningOptions | None = None
    _folder: Path = PrivateAttr(default=Path())
    """The folder of the scenario's file."""

    @field_validator("goal")
    @classmethod
    def _is_a_goal(cls, goal: str | None) -> str | None:
        if goal is not None:
            try:
                parse_goal(goal)
            except LoadTestError as error:
                raise ValueError(str(error)) from None
        return goal

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if self.requests is None and self.duration is None and not isinstance(self.arrivals, Trace):
            raise ValueError("the load has no end: set `requests` or `duration`")
        return self

    def with_changes(self, **changes: Any) -> "Scenario":
        """Return the scenario with other values; None keeps a value. `rate` is that of the arrivals.

        Raises:
            LoadTestError: a value is invalid.
        """
        data = self.model_dump(exclude_unset=True)
        rate = changes.pop("rate", None)
        if rate is not None:
            data["arrivals"] = {**data["arrivals"], "process": self.arrivals.process, "rate": rate}
        data |= {name: value for name, value in changes.items() if value is not None}
        try:
            changed = Scenario.model_validate(data)
        except ValidationError as error:
            raise LoadTestError(first_validation_error(error)) from None
        changed._folder = self._folder
        return changed

    def find_file(self, path: Path) -> Path:
        """Return the file that a path in this scenario names, or the path itself if there is no such file."""
        folders = [self._folder, Path(), *([PACKAGE] if path.parts[:1] == (EXAMPLES_PREFIX,) else [])]
        return next((found for folder in folders if (found := folder / path).exists()), path)


def load_scenario(name: str) -> Scenario:
    """Read a scenario's YAML file, by its path or its built-in name.

    Raises:
        LoadTestError: the file can't be read or is not a scenario.
    """
    path = find_scenario(name)
    try:
        data = yaml.safe_load(read_text(path, MAX_BYTES))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise LoadTestError(f"{path} is not YAML: {error}") from error
    try:
        scenario = Scenario.model_validate(data)
    except ValidationError as error:
        raise LoadTestError(f"{path}: {first_validation_error(error)}") from error
    scenario._folder = path.parent
    return scenario


def find_scenario(name: str) -> Path:
    """Return the file of a scenario.

    Raises:
        LoadTestError: there is no built-in scenario with this name.
    """
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    known = builtin_scenarios()
    if name not in known:
        raise LoadTestError(f"unknown scenario {name!r}; expected {', '.join(known)} or the path of a .yaml file")
    return known[name]


def builtin_scenarios() -> dict[str, Path]:
    """Return the files of the built-in scenarios by name."""
    return {path.stem: path for path in sorted(SCENARIOS.glob("*.yaml"))}
