"""The signatures of what vLLM's sources define: functions, methods, and the constructors of classes."""

import ast
from inspect import Signature

from tools.check_vllm.signatures import ANY, of_fields, of_function, without_first
from tools.check_vllm.sources import Definition, Sources


def signature(sources: Sources, definition: Definition, *, is_bound: bool) -> Signature:
    """Return the signature of a call of `definition`; ANY if that can't be read from vLLM's sources.

    `is_bound` says whether a method is called on an instance, which is not passed then.
    """
    if isinstance(definition.node, ast.ClassDef):
        return _constructor(sources, definition)
    if definition.function is None:
        return ANY
    found = of_function(definition.function)
    decorators = {ast.unparse(each) for each in definition.function.decorator_list}
    if decorators & {"property", "cached_property"}:
        return ANY
    is_method = not sources.path(definition.name.rpartition(".")[0]) and "staticmethod" not in decorators
    return without_first(found) if is_method and (is_bound or "classmethod" in decorators) else found


def _constructor(sources: Sources, owner: Definition) -> Signature:
    own = sources.member(owner, "__init__")
    if own is not None and own.function is not None:
        return without_first(of_function(own.function))
    fields = _fields(sources, owner)
    return of_fields(fields) if fields else ANY


def _fields(sources: Sources, owner: Definition) -> dict[str, bool]:
    """Return whether each annotated attribute has a default, by name, those of base classes first."""
    fields: dict[str, bool] = {}
    for base in reversed(sources.bases(owner)):
        if base.module:
            fields |= _fields(sources, base)
    for node in owner.node.body if isinstance(owner.node, ast.ClassDef) else []:
        match node:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=value):
                if "ClassVar" not in ast.unparse(annotation):
                    fields[name] = value is not None
    return fields
