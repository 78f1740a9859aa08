"""The model that an adapter was trained on, if its modules have other names than those of the base."""

from collections.abc import Iterable, Mapping

from loramux_adapters.base_description import BaseDescription, layer_of


def trained_names(base: BaseDescription, trained_as: Mapping[str, str]) -> dict[str, str]:
    """Return the names that modules of `base` have in the trained model, by their paths, where they differ.

    `trained_as` has those names for the modules with tensors. What is left if the end that both have is cut off tells
    how the other modules of the same part are called.
    """
    others = {path: name for path, name in trained_as.items() if path != name}
    prefixes = dict(sorted({_prefixes(path, name) for path, name in others.items()}, key=lambda pair: len(pair[0])))
    names: dict[str, str] = {}
    for ours, theirs in prefixes.items():  # the longest one decides
        names |= {path: theirs + path.removeprefix(ours) for path in base.modules if path.startswith(ours)}
    return {path: name for path, name in (names | others).items() if path != name}


def trained_part(base: BaseDescription, names: Mapping[str, str], adapted: Iterable[str]) -> BaseDescription:
    """Return `base` without the layers of parts that the trained model did not have, such as a vision tower.

    They are those of modules that are neither among `names` nor among `adapted`, the modules with tensors. If no module
    has another name, it was a model of the same class.
    """
    known = {*names, *adapted}
    modules = {path: module for path, module in base.modules.items() if layer_of(path) is None or path in known}
    fields = {"spec": base.spec, "parameters": base.parameters, "refusal": base.refusal, "versions": base.versions}
    return BaseDescription.of(modules, **fields) if names else base


def _prefixes(path: str, name: str) -> tuple[str, str]:
    """Return the beginnings of both, up to the end that they have in common."""
    ours, theirs = path.split("."), name.split(".")
    while ours and theirs and ours[-1] == theirs[-1]:
        ours.pop()
        theirs.pop()
    return "".join(f"{part}." for part in ours), "".join(f"{part}." for part in theirs)
