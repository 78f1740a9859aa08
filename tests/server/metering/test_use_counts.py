"""Requests of a version are its uses, whatever their outcome."""

from collections import Counter

from loramux_adapters.models import VersionId
from loramux_server.metering.usage_record import Outcome, Route
from loramux_server.metering.use_counts import UseCounts
from tests.helpers.usage_records import TONE, record


def test_ended_requests_of_versions_are_counted_and_those_of_the_base_or_without_a_route_are_not() -> None:
    """T13: what `adapter list` counts is what the ledger and /metrics count."""
    counts: Counter[str] = Counter()

    def count_use(version: VersionId) -> None:
        counts[str(version)] += 1

    uses = UseCounts(count_use)
    for route in (TONE, Route(), None):
        if route:
            uses.begin(route)
        for outcome in Outcome:
            uses.record(record(route=route, outcome=outcome))
    assert counts == {f"{TONE.adapter}@{TONE.version}": len(Outcome)}
