"""The plan of a comparison, from a YAML file or from command line options."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from loramux_adapters.evaluation.content_text import content_text
from loramux_adapters.evaluation.items import Chat, Item
from loramux_adapters.evaluation.verdict import MARGIN
from loramux_loadtests.compare.answer_log import fingerprint
from loramux_loadtests.compare.automatic import AutoScorer
from loramux_loadtests.compare.costs import ComparisonPrices
from loramux_loadtests.compare.errors import ComparisonError
from loramux_loadtests.compare.items import SYSTEM_ROLES, read_items, read_prompt
from loramux_loadtests.compare.judge import ComparisonScorer

BEST = "best"
"""The name of a reference that is chosen, unless an arm has this name."""
Pass = Literal["cold", "warm"]
"""Whether requests may hit the server's prefix cache (`warm`) or not (`cold`)."""


class _StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ArmConfig(_StrictModel):
    """A variant to compare: a model, and a file with the messages to put before each item; `url` of another server.

    Of the prompt's examples, which are the messages after its system message, the first `examples` are sent, or all.
    """

    model: Annotated[str, Field(min_length=1)]
    prompt: Path | None = None
    examples: Annotated[int, Field(ge=0)] | None = None
    url: str | None = None


class ComparisonPlan(_StrictModel):
    """The YAML file of a comparison; paths are relative to it.

    `challenger`, by default the last arm, is compared with `reference`: an arm, or `best` (the default), which chooses
    the best of the other arms by a part of the items. `training` is the challenger's training file, which is searched
    for the items and for the system message that it was trained with. A difference within `margin` does not matter.
    `measure` is the score that decides, by default the scorer's first one.
    """

    scorer: ComparisonScorer = AutoScorer(type="auto")
    measure: str | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1 << 20)]
    data: Path = Path("test.jsonl")
    training: Path | None = None
    margin: Annotated[float, Field(gt=0, le=1)] = MARGIN
    arms: dict[str, ArmConfig] = {}
    challenger: str | None = None
    reference: str | None = None
    prices: ComparisonPrices | None = None


class Arm(NamedTuple):
    """A variant to compare: a model on a server, and the messages to put before each item (see `add_prompt`)."""

    name: str
    model: str
    prompt: Chat
    url: str
    api_key: SecretStr | None = None


class Comparison(NamedTuple):
    """A comparison with all its files read."""

    name: str
    items: Sequence[Item]
    data: str
    """Fingerprint of all items of the file, including those beyond the limit."""
    arms: Sequence[Arm]
    challenger: str
    reference: str | None
    """None for the best of the other arms, by the items that are kept apart for this choice."""
    scorer: ComparisonScorer
    max_tokens: int
    prices: ComparisonPrices | None
    measure: str | None = None
    """The name of the score that decides, by default the scorer's first one."""
    outdated_data: str = ""
    """Fingerprint of the items as releases up to 0.2 sent them: without system messages and names."""
    base_model: str | None = None
    """The name of the base on the server, if the prices need it."""
    unsent: frozenset[str] = frozenset()
    """Keys of the data that are notes, such as `id`, and not sent."""
    margin: float = MARGIN
    """A difference in quality that does not matter."""
    training: Sequence[Item] = ()
    """What the challenger was trained on, if the plan says so."""


def read_plan(path: Path) -> ComparisonPlan:
    """Read a plan from a YAML file.

    Raises:
        ComparisonError: the file can't be read, or is not a plan.
    """
    try:
        return ComparisonPlan.model_validate(
            yaml.safe_load(path.read_text(encoding="utf-8")), context={"folder": path.parent}
        )
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ComparisonError(f"{path.name} can't be read: {error}") from error
    except ValidationError as error:
        raise ComparisonError(f"{path.name}: {format_validation_error(error)}") from error


class DefaultServer(NamedTuple):
    """The server of the arms that have no `url` of their own.

    `api_key` is sent to this server only; an arm with its own server gets its key from `arm_keys`.
    """

    url: str
    api_key: str | None = None
    arm_keys: Mapping[str, str] = MappingProxyType({})


def build_comparison(
    plan: ComparisonPlan, folder: Path, name: str, server: DefaultServer, limit: int | None
) -> Comparison:
    """Read the files that a plan names, relative to `folder`.

    Raises:
        ComparisonError: a file can't be read, or the arms make no comparison.
    """
    if unknown := sorted(server.arm_keys.keys() - plan.arms):
        raise ComparisonError(
            f"--arm-api-key names the unknown arm {unknown[0]!r}; expected one of {', '.join(map(repr, plan.arms))}"
        )
    arms = [_build_arm(arm_name, arm, folder, server) for arm_name, arm in plan.arms.items()]
    if len(arms) < 2:
        raise ComparisonError("a comparison needs at least two arms: repeat --arm, such as --arm short=BASE:prompt.txt")
    names = [arm.name for arm in arms]
    challenger = _find_arm(plan.challenger, names) or names[-1]
    reference = None if plan.reference == BEST and BEST not in names else _find_arm(plan.reference, names)
    if reference == challenger:
        raise ComparisonError(f"the arm {challenger!r} can't be compared with itself")
    items, unsent = read_items(folder / plan.data)
    data = fingerprint({"items": [_as_fingerprinted(item) for item in items]})
    scorer = plan.scorer.fit(item.expected for item in items)
    return Comparison(
        name=name,
        items=items[:limit],
        data=data,
        arms=arms,
        challenger=challenger,
        reference=reference,
        scorer=scorer,
        max_tokens=plan.max_tokens,
        prices=plan.prices,
        outdated_data=fingerprint({"items": [_as_sent_up_to_0_2(item) for item in items]}),
        unsent=unsent,
        measure=plan.measure,
        margin=plan.margin,
        training=read_items(folder / plan.training).items if plan.training else (),
    )


def _as_fingerprinted(item: Item) -> Item | tuple[Chat, str]:
    """Return an item as releases fingerprinted it that sent no tools, if it has none."""
    return item if item.tools else (item.messages, item.expected)


def _as_sent_up_to_0_2(item: Item) -> tuple[Chat, str]:
    kept = [message for message in item.messages if message["role"] not in SYSTEM_ROLES]
    return [{"role": message["role"], "content": content_text(message["content"])} for message in kept], item.expected


def _find_arm(wanted: str | None, names: Sequence[str]) -> str | None:
    if wanted and wanted not in names:
        raise ComparisonError(f"unknown arm {wanted!r}; expected one of {', '.join(map(repr, names))}")
    return wanted


def _build_arm(name: str, plan: ArmConfig, folder: Path, server: DefaultServer) -> Arm:
    key = server.arm_keys.get(name) or (None if plan.url else server.api_key)
    prompt = read_prompt(folder / plan.prompt, plan.examples) if plan.prompt else []
    return Arm(name, plan.model, prompt, plan.url or server.url, SecretStr(key) if key else None)


def format_validation_error(error: ValidationError) -> str:
    """The first problems with their locations, in one line."""
    problems: Sequence[Mapping[str, Any]] = error.errors(include_input=False, include_url=False)
    return "; ".join(
        f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}".removeprefix(": ") for problem in problems[:5]
    )
