"""`--assert`: a condition on what a comparison found, for CI. Only numbers, names, comparisons, and, or, not."""

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from math import inf

from loramux_loadtests.comparing.errors import ComparisonError
from loramux_loadtests.comparing.summary import Summary

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


def names(summary: Summary) -> dict[str, float]:
    """What a condition can speak of: the challenger beside the reference in the last pass.

    `cost_ratio` and `break_even_requests` are by the price list where it has prices, else by the machine's time.
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
    for mode in ("gpu_hour", "price_list"):  # the later one counts
        if mode in last.paid:
            known["cost_ratio"] = last.ratios[f"{mode}_cost"].estimate
            requests = last.paid[mode].requests
            known["break_even_requests"] = inf if requests is None else requests
    return known


def holds(condition: str, known: Mapping[str, float]) -> bool:
    """Whether a condition holds; raises ComparisonError for what is none, or speaks of what is not known."""
    if len(condition) > _LONGEST:
        raise ComparisonError(f"--assert: a condition has {_LONGEST} characters at most")
    try:
        return bool(_value(ast.parse(condition.strip(), mode="eval").body, known))
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError) as error:
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
