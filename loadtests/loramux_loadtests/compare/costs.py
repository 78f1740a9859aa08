"""What answers cost: by a list of token prices, and by the time of the machine that made them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from loramux_adapters.evaluation.statistics import Interval, Samples, draws, percentile_interval
from loramux_loadtests.compare.rows import Answer, Turn
from loramux_loadtests.prices import Dollars, TokenPrices

MODES = ("price_list", "gpu_hour")


class Prices(BaseModel):
    """The prices of the arms, by their names; of others `default`.

    `gpu_hour` is the rate of the machine that answers, of which an arm pays for the time of its turns.
    `training` is what making the challenger cost, `month` what keeping it costs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    default: TokenPrices = TokenPrices()
    arms: dict[str, TokenPrices] = {}
    gpu_hour: Dollars = 0.0
    training: Dollars = 0.0
    month: Dollars = 0.0


class Spent(NamedTuple):
    """What an arm cost, in pieces that came one after the other: US dollars, and how many answers they bought.

    The pieces are answers where tokens have prices, and turns where time has one.
    """

    dollars: Samples
    answers: Samples

    @property
    def mean(self) -> float:
        """US dollars an answer."""
        return float(self.dollars.sum() / self.answers.sum())


def spent(rows: Sequence[Answer], prices: Prices, turns: Sequence[Turn]) -> Mapping[str, Spent]:
    """What an arm cost by each way to count; by its time only if it had whole turns."""
    listed = np.array([prices.arms.get(row.arm, prices.default).usd(row) for row in rows])
    found = {"price_list": Spent(listed, np.ones(len(rows)))}
    if turns:
        seconds, answers = np.array(turns, float).T
        found["gpu_hour"] = Spent(seconds * prices.gpu_hour / 3600, answers)
    return found


def mean(one: Spent) -> Interval:
    """US dollars an answer."""
    (drawn,) = _drawn(one)
    return percentile_interval(drawn, one.mean)


def ratio(ours: Spent, theirs: Spent) -> Interval | None:
    """What an answer costs with the one over what it costs with the other; None where that may be nothing."""
    mine, others = _drawn(ours, theirs)
    return percentile_interval(mine / others, ours.mean / theirs.mean) if others.all() else None


def saving(ours: Spent, theirs: Spent) -> Interval:
    """US dollars that the one saves with an answer."""
    mine, others = _drawn(ours, theirs)
    return percentile_interval(others - mine, theirs.mean - ours.mean)


def _drawn(*arms: Spent) -> list[Samples]:
    """Means of pieces drawn anew, the same of each arm: what slowed a turn of the one may have slowed the other's."""
    drawn = draws(min(len(arm.dollars) for arm in arms))
    return [arm.dollars[drawn].sum(axis=1) / arm.answers[drawn].sum(axis=1) for arm in arms]
