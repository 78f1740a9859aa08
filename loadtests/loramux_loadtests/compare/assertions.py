"""`--assert`: a condition on what a comparison found, for CI. Only numbers, names, comparisons, and, or, not."""

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from math import inf

from loramux_loadtests.compare.errors import ComparisonError
from loramux_loadtests.compare.summary import Summary

_COMPARISONS: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_UNARY: dict[type[ast.unaryop], Callable[[float], float]] = {ast.Not: operator.not_, ast.USub: operator.neg}
_LONGEST = 1000
_RATIOS = {
    "prompt_token_ratio": "input_tokens",
    "output_token_ratio": "output_tokens",
    "ttft_ratio": "ttft",
    "tpot_ratio": "tpot",
    "latency_ratio": "seconds",
}
NAMES = (
    "quality", "reference_quality", "quality_gain", "quality_gain_low", "quality_gain_high", *_RATIOS,
    "cost_ratio", "cost_ratio_high", "break_even_requests", "break_even_requests_high", "unscored", "items",
)  # fmt: skip
"""What a condition can speak of, where it was measured."""


def names(summary: Summary) -> dict[str, float]:
    """The NAMES that were measured: the challenger beside the reference in the last pass.

    What is about costs is by the price list where it has prices, else by the machine's time.
    """
    last = summary.passes[-1]
    known = {
        "quality": last.arms[summary.challenger].scores[summary.score].estimate,
        "reference_quality": last.arms[summary.reference].scores[summary.score].estimate,
        "quality_gain": last.difference.estimate,
        "quality_gain_low": last.difference.low,
        "quality_gain_high": last.difference.high,
        "unscored": float(summary.unscored),
        "items": float(last.items),
    }
    known |= {name: last.ratios[measure].estimate for name, measure in _RATIOS.items() if measure in last.ratios}
    for mode, paid in reversed(last.paid.items()):  # of the ways to count, the first one counts
        if ratio := last.ratios.get(f"{mode}_cost"):
            known |= {"cost_ratio": ratio.estimate, "cost_ratio_high": ratio.high}
        _, requests, most = paid.requests
        known["break_even_requests"] = inf if requests is None else requests
        known["break_even_requests_high"] = inf if most is None else most
    return known


def check(condition: str) -> None:
    """Raise ComparisonError for what can never be a condition: before anything is asked, not after."""
    with suppress(ZeroDivisionError):
        _holds(condition, dict.fromkeys(NAMES, 1.0))


def holds(condition: str, known: Mapping[str, float]) -> bool:
    """Whether a condition holds; raises ComparisonError for what is none, or speaks of what is not known."""
    try:
        return _holds(condition, known)
    except ZeroDivisionError as error:
        raise ComparisonError(f"--assert {condition!r:.200}: {error}") from error


def _holds(condition: str, known: Mapping[str, float]) -> bool:
    if len(condition) > _LONGEST:
        raise ComparisonError(f"--assert: a condition has {_LONGEST} characters at most")
    try:
        return bool(_value(ast.parse(condition.strip(), mode="eval").body, known))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = "it can't be read" if isinstance(error, SyntaxError) else str(error)
        raise ComparisonError(f"--assert {condition!r:.200}: {reason}; known are {', '.join(sorted(known))}") from error


def _value(node: ast.expr, known: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.Name(id=name) if name in known:
            return known[name]
        case ast.Name(id=name):
            raise ValueError(f"{name} is not known")
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _UNARY[type(op)](_value(operand, known))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            return _ARITHMETIC[type(op)](_value(left, known), _value(right, known))
        case ast.BoolOp(op=op, values=parts):
            found = [bool(_value(part, known)) for part in parts]
            return float(all(found) if isinstance(op, ast.And) else any(found))
        case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in _COMPARISONS for op in ops):
            return _chain(ops, [_value(one, known) for one in (left, *others)])
    raise ValueError("only numbers, names, comparisons, and, or, not are understood")


def _chain(ops: Sequence[ast.cmpop], values: Sequence[float]) -> float:
    pairs = zip(ops, values, values[1:], strict=False)
    return float(all(_COMPARISONS[type(op)](left, right) for op, left, right in pairs))
