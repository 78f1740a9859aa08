"""The metrics as they are shown: all that are collected, but for the series of vLLM's that never end."""

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.registry import Collector

LORA_INFO = "vllm:lora_requests_info"
"""vLLM's gauge of which adapters run and wait: their names are its labels, and its value is when that was so.

Each combination of names that ever ran together is a series more: with many adapters, more than Prometheus can take.
"""


class Exposition:
    """A registry to be encoded, with one series for `LORA_INFO`: the newest, which is what runs now."""

    def __init__(self, registry: Collector) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """Collect as the registry does."""
        for family in self._registry.collect():
            yield _newest(family) if family.name == LORA_INFO else family


def _newest(family: Metric) -> Metric:
    newest = Metric(family.name, family.documentation, family.type, family.unit)
    if family.samples:
        newest.samples.append(max(family.samples, key=lambda sample: sample.value))
    return newest
