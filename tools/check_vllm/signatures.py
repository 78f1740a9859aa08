"""Signatures from syntax trees, and whether a call or an override fits one."""

import ast
import inspect
from collections.abc import Mapping, Sequence
from inspect import Parameter, Signature

Function = ast.FunctionDef | ast.AsyncFunctionDef
ANY = Signature([Parameter("args", Parameter.VAR_POSITIONAL), Parameter("kwargs", Parameter.VAR_KEYWORD)])
"""Of a function that takes whatever it gets."""
UNCHECKED = "_"
"""A positional argument of a declared call whose name does not matter."""


def of_function(node: Function) -> Signature:
    """Return the signature of a function; that of a method without `self` or `cls`, unless it is static."""
    arguments = node.args
    required = len(arguments.posonlyargs) + len(arguments.args) - len(arguments.defaults)
    found = [
        _parameter(each, kind, has_default=index >= required)
        for index, (each, kind) in enumerate(
            [(each, Parameter.POSITIONAL_ONLY) for each in arguments.posonlyargs]
            + [(each, Parameter.POSITIONAL_OR_KEYWORD) for each in arguments.args]
        )
    ]
    if arguments.vararg:
        found.append(Parameter(arguments.vararg.arg, Parameter.VAR_POSITIONAL))
    for each, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        found.append(_parameter(each, Parameter.KEYWORD_ONLY, has_default=default is not None))
    if arguments.kwarg:
        found.append(Parameter(arguments.kwarg.arg, Parameter.VAR_KEYWORD))
    return Signature(found)


def without_first(signature: Signature) -> Signature:
    """Return the signature of a bound method."""
    parameters = list(signature.parameters.values())
    is_variadic = parameters and parameters[0].kind is Parameter.VAR_POSITIONAL
    return signature if is_variadic else signature.replace(parameters=parameters[1:])


def of_fields(fields: Mapping[str, bool]) -> Signature:
    """Return the signature of a class whose constructor takes its fields: whether each has a default, by name."""
    # A field without a default may follow one of a base class with one; as keywords, their order does not matter.
    ordered = sorted(fields, key=lambda name: fields[name])
    return Signature(
        [
            Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=None if fields[name] else Parameter.empty)
            for name in ordered
        ]
    )


def _parameter(node: ast.arg, kind: inspect._ParameterKind, *, has_default: bool) -> Parameter:
    return Parameter(node.arg, kind, default=None if has_default else Parameter.empty)


def misfit(signature: Signature, call: ast.Call, *, named: bool = False) -> str | None:
    """Return why `call` does not fit, None if it does.

    With `named`, a positional argument other than UNCHECKED must be for the parameter of that name.
    """
    positional = [each.id if named and isinstance(each, ast.Name) else UNCHECKED for each in call.args]
    keywords = {each.arg: each.arg for each in call.keywords if each.arg}
    is_partial = len(keywords) < len(call.keywords) or any(isinstance(each, ast.Starred) for each in call.args)
    return _binding_problem(signature, positional, keywords, is_partial=is_partial)


def override_misfit(theirs: Signature, ours: Signature) -> str | None:
    """Return why a call of `theirs` would not do the same with `ours`; None if all calls would."""
    parameters = [each for each in theirs.parameters.values() if each.kind not in _VARIADIC]
    by_position = [each.name for each in parameters if each.kind is not Parameter.KEYWORD_ONLY]
    leading = [name for name in by_position if theirs.parameters[name].default is Parameter.empty]
    only_positional = [each.name for each in parameters if each.kind is Parameter.POSITIONAL_ONLY]
    names = [each.name for each in parameters]
    required = [each.name for each in parameters if each.default is Parameter.empty]
    calls = ((leading, names), (only_positional, names), (only_positional, required))
    problems = (
        _binding_problem(ours, positional, {name: name for name in rest if name not in positional}, is_partial=False)
        for positional, rest in calls
    )
    return next((problem for problem in problems if problem), None)


_VARIADIC = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def _binding_problem(
    signature: Signature, positional: Sequence[str], keywords: Mapping[str, str], *, is_partial: bool
) -> str | None:
    try:
        bound = (signature.bind_partial if is_partial else signature.bind)(*positional, **keywords)
    except TypeError as error:
        return str(error)
    for name, value in bound.arguments.items():
        if signature.parameters[name].kind not in _VARIADIC and value not in (name, UNCHECKED):
            return f"{value!r} would be passed as {name!r}"
    return None
