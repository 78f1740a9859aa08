"""Proof of effect: what a version has to show on the engine before it serves."""

from typing import Protocol

from loramux_adapters.models import Proof, VersionId

LEAST_EFFECT = 1e-3
"""In nats. Trained adapters change some log-probability by 4 or more and random ones of their size by 1, while rounding
alone makes 3e-5 of it in float32. What bfloat16 rounds away is no effect at all: the difference is exactly 0 then."""

MARGIN = 2.0
"""How many times the base's own noise an effect must be: the same prompt in another batch may sum in another order."""


class Prover(Protocol):
    """Tries versions out on the engine."""

    async def prove(self, version: VersionId) -> Proof:
        """Ask the base and the version the same; raises AdapterError if the version does not get into the engine."""


def fault(proof: Proof) -> str | None:
    """Why the version must not serve, in words for people, or None if it may."""
    if not proof.finite:
        return "it makes the model compute values that are no numbers"
    if proof.difference <= max(LEAST_EFFECT, MARGIN * proof.noise):
        return (
            f"it changes nothing: its answers' log-probabilities differ from the base's by {proof.difference:.2g} "
            f"at most, and the base's from one run to the next by {proof.noise:.2g}"
        )
    return None
