"""Resolution of names that tools give to a base's modules or tensors, by the base's own paths."""

from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from itertools import takewhile

from loramux_adapters.errors import InvalidAdapter

NEUTRAL = frozenset({"base_model", "model", "module", "language_model", "text_model", "llm"})
"""Containers that name the whole model or its text part, by which a name can be longer than the base's path. Others,
such as `vision_tower` and `mtp`, name another part: a name with one of them is never a module outside of it."""


MAX_PARTS = 100
"""No model is nested so deeply; a longer name would only take time."""


class Paths:
    """The paths of one base, among which those of tools' names are found.

    Args:
        paths: all paths.
        preferred: those that are meant if a name is short for one of them and for others; by default all.
    """

    def __init__(self, paths: Collection[str], preferred: Collection[str] | None = None) -> None:
        self._paths = frozenset(paths)
        self._preferred = self._paths if preferred is None else frozenset(preferred)

    def find(self, parts: Sequence[str], where: str) -> str | None:
        """Return the path that the `parts` of a name mean, None if the base has no such path.

        Parts that begin with an underscore are attributes in which PyTorch's wrappers keep a module; they are dropped
        unless the base has such parts. The rest is a path, a path after NEUTRAL containers, or the end of exactly one
        path: `layers.0.mlp.up_proj` for `model.language_model.layers.0.mlp.up_proj`.

        Raises:
            InvalidAdapter: the name, for which `where` stands in the message, is the end of several paths.
        """
        kept = [part for part in parts if not part.startswith("_") or part in self._parts]
        if len(kept) > MAX_PARTS:
            return None
        for end in _without_neutral_containers(kept):
            if end in self._paths:
                return end
            if candidates := self._ending_with(end):
                return self._only_one(candidates, end, where)
        return None

    @cached_property
    def _parts(self) -> frozenset[str]:
        return frozenset(part for path in self._paths for part in path.split("."))

    @cached_property
    def _ends(self) -> dict[str, list[str]]:
        """The paths by each of their ends before which no number is cut off: a number is no mere container."""
        ends: dict[str, list[str]] = {}
        for path in sorted(self._paths):
            parts = path.split(".")
            for count, _ in enumerate(takewhile(lambda part: not part.isdigit(), parts[:-1]), start=1):
                ends.setdefault(".".join(parts[count:]), []).append(path)
        return ends

    def _ending_with(self, end: str) -> list[str]:
        found = self._ends.get(end, [])
        return [path for path in found if path in self._preferred] or found

    @staticmethod
    def _only_one(candidates: Sequence[str], end: str, where: str) -> str:
        if len(candidates) > 1:
            added = {path: path.removesuffix(end).split(".")[:-1] for path in candidates}
            candidates = [path for path in candidates if NEUTRAL.issuperset(added[path])] or candidates
        if len(candidates) > 1:
            raise InvalidAdapter("the name is the end of several names of the base; write it in full", where=where,
                                 expected=" or ".join(candidates[:3]))  # fmt: skip
        return candidates[0]


def _without_neutral_containers(parts: Sequence[str]) -> Iterator[str]:
    """Yield the name whole, and without its first neutral containers, one after the other."""
    yield ".".join(parts)
    for count, _ in enumerate(takewhile(NEUTRAL.__contains__, parts[:-1]), start=1):
        yield ".".join(parts[count:])
