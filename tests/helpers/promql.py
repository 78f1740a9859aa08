"""The metrics and labels that PromQL expressions use, by their syntax trees."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import promql_parser
from prometheus_client.parser import text_string_to_metric_families

Known = Mapping[str, frozenset[str]]
"""The labels of each series by its name."""

SCRAPE_LABELS = frozenset({"job", "instance"})
"""The labels that Prometheus adds to every scraped series."""
PROMETHEUS: Known = {"up": SCRAPE_LABELS}
"""The series that Prometheus itself adds for a server."""


class UnknownNameError(Exception):
    """An expression uses an unknown metric or label."""


def exposed(page: str) -> dict[str, frozenset[str]]:
    """Return the series of a metrics page."""
    found: dict[str, frozenset[str]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, SCRAPE_LABELS) | sample.labels.keys()
    return found


def labels_of(text: str, known: Known) -> frozenset[str]:
    """Return the labels of an expression's result.

    Raises:
        UnknownNameError: the expression uses an unknown metric or label.
        ValueError: it is not valid PromQL.
    """
    return _Reader(known).labels(promql_parser.parse(text))


@dataclass(frozen=True)
class _Reader:
    known: Known

    def labels(self, expr: Any) -> frozenset[str]:
        """Return the labels of the result of `expr`."""
        return frozenset(getattr(self, f"_of_{type(expr).__name__}")(expr))

    def _of_VectorSelector(self, selector: Any) -> Iterable[str]:  # noqa: N802 - the parser's names
        if selector.name not in self.known:
            raise UnknownNameError(f"unknown metric {selector.name}")
        labels = self.known[selector.name]
        self._check((matcher.name for matcher in selector.matchers.matchers), labels)
        return labels

    def _of_MatrixSelector(self, selector: Any) -> Iterable[str]:  # noqa: N802
        return self.labels(selector.vector_selector)

    def _of_AggregateExpr(self, aggregate: Any) -> Iterable[str]:  # noqa: N802
        inner, modifier = self.labels(aggregate.expr), aggregate.modifier
        if modifier is None:
            return inner if str(aggregate.op) == "topk" else ()
        self._check(modifier.labels, inner)
        return modifier.labels if modifier.type == promql_parser.AggModifierType.By else inner - {*modifier.labels}

    def _of_Call(self, call: Any) -> Iterable[str]:  # noqa: N802
        labels = frozenset[str]().union(*(self.labels(argument) for argument in call.args))
        if call.func.name != "histogram_quantile":
            return labels
        self._check({"le"}, labels)
        return labels - {"le"}

    def _of_BinaryExpr(self, binary: Any) -> Iterable[str]:  # noqa: N802
        left, right = self.labels(binary.lhs), self.labels(binary.rhs)
        matching = binary.modifier.matching if binary.modifier else None
        if matching:
            self._check(matching.labels, left & right)
        return left or right

    def _of_ParenExpr(self, paren: Any) -> Iterable[str]:  # noqa: N802
        return self.labels(paren.expr)

    def _of_NumberLiteral(self, _: Any) -> Iterable[str]:  # noqa: N802
        return ()

    def _check(self, named: Iterable[str], there: frozenset[str]) -> None:
        unknown = set(named) - there
        if unknown:
            raise UnknownNameError(f"unknown label {', '.join(sorted(unknown))}")
