"""The metrics that `/metrics` exposes: all collected ones, except stale series of one vLLM gauge."""

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.registry import Collector

LORA_INFO = "vllm:lora_requests_info"
"""vLLM's gauge of running and waiting adapters: their names are its labels, its value is the time of the update.

Each combination of names adds a series that never ends: with many adapters, more than Prometheus can store.
"""


class Exposition:
    """A collector to encode for Prometheus: `registry`, with only the newest series of `LORA_INFO`."""

    def __init__(self, registry: Collector) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families of the registry."""
        for family in self._registry.collect():
            yield _newest(family) if family.name == LORA_INFO else family


def _newest(family: Metric) -> Metric:
    newest = Metric(family.name, family.documentation, family.type, family.unit)
    if family.samples:
        newest.samples.append(max(family.samples, key=lambda sample: sample.value))
    return newest
