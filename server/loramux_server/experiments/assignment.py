"""Assigns requests to variants at random, always the same one to a user, and puts a variant's prompt before a chat."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from loramux_server.experiments.models import Experiment, Variant

if TYPE_CHECKING:
    from loramux_server.experiments.measures import Measure

_SYSTEM_ROLES = ("system", "developer")


@dataclass(eq=False, slots=True)
class Assignment:
    """A request of an experiment: the variant that it was assigned to, and what became of it."""

    experiment: Experiment
    variant: Variant
    unit: str
    model: str
    """The adapter's name, which the response keeps as its model."""
    measure: "Measure | None" = None
    """What scores the answer, None for feedback."""
    is_shadow: bool = False
    """Whether the client does not get this answer."""
    wants_shadow: bool = False
    """Whether the baseline is to be asked as well, once the client has its answer."""
    failure: str | None = None
    """Why the assigned variant failed, after which the default variant answered."""
    texts: Sequence[str] | None = None
    """The answers, if quality is measured by their text."""
    question: str = ""

    @property
    def header(self) -> str:
        """The value of `x-loramux-experiment`: the experiment and the variant that answered."""
        if self.failure is None:
            return f"{self.experiment.id}/{self.variant.name}"
        answered = self.experiment.config.default_variant.name
        return f"{self.experiment.id}/{answered}; assigned={self.variant.name}"


def assign(
    experiment: Experiment,
    end_user: str | None,
    measure: "Measure | None" = None,
    *,
    draw: Callable[[], float] = random.random,
) -> Assignment:
    """Assign a request: by the user if there is one, else by `draw`, which returns a number in [0, 1).

    An API key is no unit, because many people may share it. The hash depends on the experiment's random id, so that a
    user who gets the baseline of one experiment does not get that of the next one as well.
    """
    config = experiment.config
    digest = sha256(f"{experiment.id}\0{end_user}".encode(errors="surrogatepass")).digest() if end_user else b""
    point = int.from_bytes(digest[:8]) / 2**64 if end_user else draw()
    unit = digest[8:20].hex() if end_user else f"r{uuid4().hex[:24]}"
    is_sampled = point < config.share
    variant = config.sampled_variant if is_sampled and not config.shadow else config.default_variant
    return Assignment(experiment, variant, unit, config.adapter, measure, wants_shadow=config.shadow and is_sampled)


def add_prompt(prompt: Sequence[Mapping[str, Any]], messages: Sequence[Any]) -> list[Any]:
    """Return the messages with a prompt before them, as `loramux compare` does.

    The chat's own system messages stay, unless the prompt has some: then these replace them.
    """
    if not prompt:
        return list(messages)
    first_turn = next((at for at, message in enumerate(messages) if not _is_system(message)), len(messages))
    own = [] if any(map(_is_system, prompt)) else messages[:first_turn]
    return [*own, *map(dict, prompt), *messages[first_turn:]]


def _is_system(message: Any) -> bool:
    return isinstance(message, Mapping) and message.get("role") in _SYSTEM_ROLES
