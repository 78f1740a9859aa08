"""The effect check: how much a version must change the base's answers before it may be served."""

from typing import Protocol

from loramux_adapters.models import EffectCheck, VersionId

MIN_EFFECT_NATS = 1e-3
"""Trained adapters change some log-probability by 4 nats or more, and random ones of their size by 1; rounding alone
changes it by 3e-5 in float32. An adapter whose effect bfloat16 rounds away differs by exactly 0."""

NOISE_FACTOR = 2.0
"""Minimum ratio of an effect to the base's own noise, which comes from sums in another order in another batch."""


class EffectChecker(Protocol):
    """Checks the effect of versions on the engine."""

    async def check_effect(self, version: VersionId) -> EffectCheck:
        """Run the same prompts on the base and on the version, and compare their log-probabilities.

        Raises:
            AdapterError: the engine can't load the version.
        """


def rejection_reason(check: EffectCheck) -> str | None:
    """Return why the version must not be served, as a sentence without its subject, or None if it may."""
    if not check.finite:
        return "it makes the model compute NaN or infinite values"
    if check.difference <= max(MIN_EFFECT_NATS, NOISE_FACTOR * check.noise):
        return (
            f"it has no effect: its log-probabilities differ from the base's by at most {check.difference:.2g} nats, "
            f"and two runs of the base differ by {check.noise:.2g}"
        )
    return None
