"""What a correct server answers: the log-probabilities of a reference, and how far from them it may be."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.gpu.checked_base import CheckedModels
from benchmarks.gpu.scoring import Logprobs, Prompts, Refused, difference
from loramux_loadtests.loadtest.errors import LoadTestError

BASE = "base"
MIN_TOLERANCE = 1e-3
"""Nats; in float32, other orders of summation differ by less."""
MAX_ERROR_RATIO = 2.0
"""How much further from the exact log-probabilities than the reference's a server's may be."""
MIN_EFFECT_RATIO = 10.0
"""How much larger an adapter's effect must be than the tolerance: else the comparison would show nothing."""
LENGTHS = (20, 37, 50, 64, 90, 121)
"""Tokens of the prompts. Most leave the end of their last block unwritten."""


@dataclass(frozen=True)
class Reference:
    """What the log-probabilities must be, and how far off a correct server may be."""

    prompts: Prompts
    exact: Mapping[str, Logprobs]
    """By route: BASE, or an adapter's name."""
    tolerance: Mapping[str, float]
    by: str
    """Which program computed the log-probabilities in the served type."""

    def error(self, route: str, found: Logprobs) -> float:
        """Return the mean distance from the exact log-probabilities, in nats."""
        return difference(found, self.exact[route])

    def fits(self, route: str, found: Logprobs | Refused) -> bool:
        """Whether a server's log-probabilities are correct."""
        return not isinstance(found, Refused) and self.error(route, found) <= self.tolerance[route]


def make_prompts(vocabulary: int, seed: int = 0) -> Prompts:
    """Return prompts of random tokens."""
    rng = np.random.default_rng(seed)
    return [rng.integers(10, vocabulary, length).tolist() for length in LENGTHS]


def compute_reference(models: CheckedModels, prompts: Prompts, dtype: str) -> Reference:
    """Compute the reference in a process of its own.

    Raises:
        LoadTestError: it failed, for example because transformers is not installed.
    """
    adapters = {name: str(folder) for name, folder in models.sound.items()}
    request = {"base": str(models.base), "adapters": adapters, "prompts": prompts, "dtype": dtype}
    command = [sys.executable, "-m", "benchmarks.gpu.reference"]
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, check=False)
    if done.returncode:
        raise LoadTestError(f"the reference could not be computed:\n{done.stderr[-2000:]}")
    return read_reference(json.loads(done.stdout), prompts)


def read_reference(answer: Mapping[str, Any], prompts: Prompts) -> Reference:
    """Return the reference from the answer of its process.

    Raises:
        LoadTestError: an adapter's effect is too small to be told from rounding.
    """
    exact, served = answer["exact"], answer["served"]
    tolerance = {
        route: max(MIN_TOLERANCE, MAX_ERROR_RATIO * difference(served[route], exact[route])) for route in exact
    }
    for route in set(exact) - {BASE}:
        if not difference(exact[route], exact[BASE]) > MIN_EFFECT_RATIO * tolerance[route]:
            raise LoadTestError(f"the effect of the adapter {route} is too small to check anything")
    return Reference(prompts, exact, tolerance, str(answer["by"]))
