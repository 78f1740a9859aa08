"""What is compared: read from a file, or put together from the command line's words."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from loramux_adapters.evaluation.scorers import Scorer
from loramux_loadtests.compare.costs import Prices
from loramux_loadtests.compare.errors import ComparisonError
from loramux_loadtests.compare.items import Chat, Item, read_items, read_prompt
from loramux_loadtests.compare.rows import fingerprint

Pass = Literal["cold", "warm"]
"""Whether a request may find the prefix of an earlier one in the server's cache."""


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ArmPlan(_Given):
    """One way of answering: a model, and the file of what goes before every item; `url` if it is another server."""

    model: Annotated[str, Field(min_length=1)]
    prompt: Path | None = None
    url: str | None = None


class Plan(_Given):
    """What a comparison's YAML file holds; paths are relative to it.

    `challenger` is compared with `reference`: the last arm with the one before it, if they are not named.
    """

    scorer: Scorer
    max_tokens: Annotated[int, Field(ge=1, le=1 << 20)]
    data: Path = Path("test.jsonl")
    arms: dict[str, ArmPlan] = {}
    challenger: str | None = None
    reference: str | None = None
    prices: Prices | None = None


class Arm(NamedTuple):
    """One way of answering: where and what is asked, and the messages that go before every item."""

    name: str
    model: str
    prompt: Chat
    url: str
    api_key: SecretStr | None = None


class Comparison(NamedTuple):
    """What is to be done, with all files read."""

    name: str
    items: Sequence[Item]
    data: str
    """Names all items of the file, also those beyond a limit."""
    arms: Sequence[Arm]
    challenger: str
    reference: str
    scorer: Scorer
    max_tokens: int
    prices: Prices | None


def read_plan(path: Path) -> Plan:
    """Read a YAML file; raises ComparisonError."""
    try:
        return Plan.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")), context={"folder": path.parent})
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ComparisonError(f"{path.name} can't be read: {error}") from error
    except ValidationError as error:
        raise ComparisonError(f"{path.name}: {told(error)}") from error


class Server(NamedTuple):
    """Where the arms are asked that name no server of their own.

    Such a server never gets `api_key`, which is this one's, but what `arm_keys` has for the arm.
    """

    url: str
    api_key: str | None = None
    arm_keys: Mapping[str, str] = MappingProxyType({})


def prepared(plan: Plan, folder: Path, name: str, server: Server, limit: int | None) -> Comparison:
    """Read what a plan names, in `folder`; raises ComparisonError."""
    if unknown := sorted(server.arm_keys.keys() - plan.arms):
        raise ComparisonError(f"there is a key for {unknown[0]!r}, and no such arm")
    arms = [_arm(arm_name, arm, folder, server) for arm_name, arm in plan.arms.items()]
    if len(arms) < 2:
        raise ComparisonError("a comparison needs two arms or more, such as --arm short=BASE:prompt.txt")
    names = [arm.name for arm in arms]
    for wanted in filter(None, (plan.challenger, plan.reference)):
        if wanted not in names:
            raise ComparisonError(f"there is no arm {wanted!r}: there are {', '.join(map(repr, names))}")
    challenger = plan.challenger or names[-1]
    others = [known for known in names if known != challenger]
    reference = plan.reference or others[-1]
    if reference == challenger:
        raise ComparisonError(f"the arm {challenger!r} can't be compared with itself")
    items = read_items(folder / plan.data)
    data = fingerprint({"items": items})
    scorer = plan.scorer.knowing(item.expected for item in items)
    return Comparison(name, items[:limit], data, arms, challenger, reference, scorer, plan.max_tokens, plan.prices)


def _arm(name: str, plan: ArmPlan, folder: Path, server: Server) -> Arm:
    key = server.arm_keys.get(name) or (None if plan.url else server.api_key)
    prompt = read_prompt(folder / plan.prompt) if plan.prompt else []
    return Arm(name, plan.model, prompt, plan.url or server.url, SecretStr(key) if key else None)


SHORT, FEW_SHOT, ADAPTER = "base, short prompt", "base, few-shot prompt", "adapter, short prompt"


def example_arms(base: str, adapter: str) -> dict[str, ArmPlan]:
    """The three arms of an example's folder, which holds their prompts."""
    short, few_shot = Path("prompt_short.json"), Path("prompt_few_shot.json")
    return {
        SHORT: ArmPlan(model=base, prompt=short),
        FEW_SHOT: ArmPlan(model=base, prompt=few_shot),
        ADAPTER: ArmPlan(model=adapter, prompt=short),
    }


def parse_arm(words: str) -> tuple[str, ArmPlan]:
    """Read NAME=MODEL or NAME=MODEL:PROMPT_FILE; a model's name may have colons, so the file must be there.

    Raises ComparisonError.
    """
    name, equals, rest = words.partition("=")
    if not (name and equals and rest):
        raise ComparisonError(f"{words!r} is no arm: write NAME=MODEL or NAME=MODEL:PROMPT_FILE")
    model, colon, file = rest.rpartition(":")
    if colon and Path(file).is_file():
        return name, ArmPlan(model=model, prompt=Path(file).resolve())
    if file.endswith((".json", ".txt", ".md")):
        raise ComparisonError(f"{words!r}: there is no prompt file {file}")
    return name, ArmPlan(model=rest)


def parse_keys(words: Sequence[str]) -> dict[str, str]:
    """Read ARM=KEY, several; raises ComparisonError, which does not tell what a key is."""
    parts = [word.partition("=") for word in words]
    if not all(name and key for name, _, key in parts):
        raise ComparisonError("a key of an arm is written ARM=KEY")
    return {name: key for name, _, key in parts}


def parse_arms(words: Sequence[str]) -> dict[str, ArmPlan]:
    """Read several; raises ComparisonError, also for two of the same name."""
    arms: dict[str, ArmPlan] = {}
    for name, arm in map(parse_arm, words):
        if name in arms:
            raise ComparisonError(f"two arms are called {name!r}")
        arms[name] = arm
    return arms


def told(error: ValidationError) -> str:
    """What is wrong and where, in a line."""
    problems: Sequence[Mapping[str, Any]] = error.errors(include_input=False, include_url=False)
    return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}".removeprefix(": ") for one in problems[:5])
