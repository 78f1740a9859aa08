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
from loramux_loadtests.loadtest.files import first_reason, read_text
from loramux_loadtests.loadtest.goals import parse_goal
from loramux_loadtests.loadtest.mix import BASE, Mix
from loramux_loadtests.loadtest.prompts import Input, Output

FOLDER = Path(__file__).parents[1] / "scenarios"
"""Where the scenarios are that come with the package."""
EXAMPLES_PREFIX = "examples"
MAX_BYTES = 1 << 20

Seconds = Annotated[float, Field(gt=0, le=7 * 24 * 3600, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WarmUp(_Part):
    """Requests before the load, in turn to `routes`, a few at a time; no figure counts them."""

    requests: Annotated[int, Field(ge=0, le=100_000)] = 8
    routes: tuple[str, ...] = (BASE,)


class ServerSetup(_Part):
    """What a server that is started for the scenario has: adapters, and vLLM's arguments by their Python names."""

    examples: bool = False
    """The three example adapters of this repository."""
    rank: Annotated[int, Field(ge=1, le=512)] = 8
    """Of the made-up adapters, of which there are as many as the mix asks for."""
    small: bool = False
    """Made-up adapters on one module of one layer, for when it is their number that matters."""
    engine: Mapping[str, str | int | float | bool] = {}


class FineTuning(_Part):
    """A fine-tuning job that begins `after` so many seconds of the load, and is cancelled when the load ends."""

    data: Path
    after: Annotated[float, Field(ge=0, le=24 * 3600)] = 30.0


class Scenario(_Part):
    """Everything that decides which requests come when; with a seed, exactly which."""

    title: Annotated[str, Field(min_length=1, max_length=200)]
    about: str = ""
    arrivals: Arrivals
    mix: Mix
    input: Input = Input()
    output: Output = Output()
    requests: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    duration: Seconds | None = None
    warm_up: WarmUp = WarmUp()
    goal: str | None = None
    window: Seconds = 60.0
    """The drift over time is looked at in pieces so long."""
    drain: Seconds = 120.0
    """How long is waited for answers after the last request was sent; what takes longer is abandoned."""
    timeout: Seconds = 600.0
    server: ServerSetup = ServerSetup()
    fine_tuning: FineTuning | None = None
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
            raise ValueError("say when the load ends: requests or duration")
        return self

    def changed(self, **changes: Any) -> "Scenario":
        """The scenario with other values, checked anew; None leaves a value as it is. `rate` is the arrivals'.

        LoadTestError for a value that a scenario can't have.
        """
        data = self.model_dump(exclude_unset=True)
        rate = changes.pop("rate", None)
        if rate is not None:
            data["arrivals"] = {**data["arrivals"], "process": self.arrivals.process, "rate": rate}
        data |= {name: value for name, value in changes.items() if value is not None}
        try:
            changed = Scenario.model_validate(data)
        except ValidationError as error:
            raise LoadTestError(first_reason(error)) from None
        changed._folder = self._folder
        return changed

    def find_file(self, path: Path) -> Path:
        """Return the file that a path in this scenario names, or the path itself if there is no such file."""
        folders = [self._folder, Path(), *([PACKAGE] if path.parts[:1] == (EXAMPLES_PREFIX,) else [])]
        return next((found for folder in folders if (found := folder / path).exists()), path)


def load_scenario(name: str) -> Scenario:
    """Read a scenario's YAML file, by its path or by its name. LoadTestError says what is wrong with it."""
    path = find_scenario(name)
    try:
        data = yaml.safe_load(read_text(path, MAX_BYTES))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise LoadTestError(f"{path} is not YAML: {error}") from error
    try:
        scenario = Scenario.model_validate(data)
    except ValidationError as error:
        raise LoadTestError(f"{path}: {first_reason(error)}") from error
    scenario._folder = path.parent
    return scenario


def find_scenario(name: str) -> Path:
    """The file of a scenario. LoadTestError lists those that there are."""
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    known = scenarios()
    if name not in known:
        raise LoadTestError(f"there is no scenario {name!r}: there is {', '.join(known)}, or give a path to a .yaml")
    return known[name]


def scenarios() -> dict[str, Path]:
    """The scenarios of the repository by their names."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}
