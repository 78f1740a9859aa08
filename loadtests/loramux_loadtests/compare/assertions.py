"""Conditions of `--assert` on the result of a comparison, for CI: numbers, variables, comparisons, and, or, not."""

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from math import inf

from loramux_loadtests.compare.errors import ComparisonError
from loramux_loadtests.compare.summary import ComparisonSummary

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
_MAX_CONDITION_CHARS = 1000
_UNDECIDED = {"not enough items", "scorer in doubt"}
_RATIOS = {
    "prompt_token_ratio": "input_tokens",
    "output_token_ratio": "output_tokens",
    "ttft_ratio": "ttft",
    "tpot_ratio": "tpot",
    "latency_ratio": "seconds",
}
VARIABLES = (
    "quality", "reference_quality", "quality_gain", "quality_gain_low", "quality_gain_high", *_RATIOS,
    "cost_ratio", "cost_ratio_high", "break_even_requests", "break_even_requests_high", "unscored", "items",
    "is_better", "is_as_good", "is_worse", "is_not_worse", "neither_works", "scorer_in_doubt", "is_decided",
    "items_needed", "warnings",
)  # fmt: skip
"""The variables of conditions; a variable that was not measured is unknown."""


def assertion_variables(summary: ComparisonSummary) -> dict[str, float]:
    """The measured VARIABLES, of the challenger relative to the reference in the last pass.

    Costs are by the price list where tokens have prices, else by the machine's time.
    """
    last = summary.passes[-1]
    variables = {
        "quality": last.arms[summary.challenger].scores[summary.score].estimate,
        "reference_quality": last.arms[summary.reference].scores[summary.score].estimate,
        "quality_gain": last.difference.estimate,
        "quality_gain_low": last.difference.low,
        "quality_gain_high": last.difference.high,
        "unscored": float(summary.unscored),
        "items": float(last.items),
        "is_better": float(summary.verdict == "better"),
        "is_as_good": float(summary.verdict == "as good"),
        "is_worse": float(summary.verdict == "worse"),
        "is_not_worse": float(summary.is_not_worse),
        "neither_works": float(summary.verdict == "neither works"),
        "scorer_in_doubt": float(summary.verdict == "scorer in doubt"),
        "is_decided": float(summary.verdict not in _UNDECIDED),
        "items_needed": _items_needed(summary),
        "warnings": float(len(summary.warnings)),
    }
    variables |= {name: last.ratios[measure].estimate for name, measure in _RATIOS.items() if measure in last.ratios}
    for mode, payback in reversed(last.paid.items()):  # the first mode counts
        if ratio := last.ratios.get(f"{mode}_cost"):
            variables |= {"cost_ratio": ratio.estimate, "cost_ratio_high": ratio.high}
        _, requests, high = payback.requests
        variables["break_even_requests"] = inf if requests is None else requests
        variables["break_even_requests_high"] = inf if high is None else high
    return variables


def _items_needed(summary: ComparisonSummary) -> float:
    """The items that would decide: those that there are if they do, infinite if it is not known."""
    if summary.verdict not in _UNDECIDED:
        return float(summary.passes[-1].items)
    return inf if summary.items_needed is None else float(summary.items_needed)


def check_condition(condition: str) -> None:
    """Check a condition before the first request.

    Raises:
        ComparisonError: it can't be a condition, whatever is measured.
    """
    with suppress(ZeroDivisionError):
        _evaluate(condition, dict.fromkeys(VARIABLES, 1.0))


def evaluate_condition(condition: str, variables: Mapping[str, float]) -> bool:
    """Return whether a condition holds.

    Raises:
        ComparisonError: it is not a condition, or has an unknown variable.
    """
    try:
        return _evaluate(condition, variables)
    except ZeroDivisionError as error:
        raise ComparisonError(f"--assert {condition!r:.200}: {error}") from error


def _evaluate(condition: str, variables: Mapping[str, float]) -> bool:
    if len(condition) > _MAX_CONDITION_CHARS:
        raise ComparisonError(f"--assert: a condition may have at most {_MAX_CONDITION_CHARS} characters")
    try:
        return bool(_value(ast.parse(condition.strip(), mode="eval").body, variables))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = "invalid syntax" if isinstance(error, SyntaxError) else str(error)
        raise ComparisonError(
            f"--assert {condition!r:.200}: {reason}; variables are {', '.join(sorted(variables))}"
        ) from error


def _value(node: ast.expr, variables: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.Name(id=name) if name in variables:
            return variables[name]
        case ast.Name(id=name):
            raise ValueError(f"unknown variable {name!r}")
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _UNARY[type(op)](_value(operand, variables))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            return _ARITHMETIC[type(op)](_value(left, variables), _value(right, variables))
        case ast.BoolOp(op=op, values=parts):
            found = [bool(_value(part, variables)) for part in parts]
            return float(all(found) if isinstance(op, ast.And) else any(found))
        case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in _COMPARISONS for op in ops):
            return _chain(ops, [_value(operand, variables) for operand in (left, *others)])
    raise ValueError("only numbers, variables, + - * /, comparisons, and, or, not are allowed")


def _chain(ops: Sequence[ast.cmpop], values: Sequence[float]) -> float:
    pairs = zip(ops, values, values[1:], strict=False)
    return float(all(_COMPARISONS[type(op)](left, right) for op, left, right in pairs))
