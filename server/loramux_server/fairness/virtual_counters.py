"""Virtual token counters in a tree: which waiting run is next, by the work that each branch has got so far.

Each node counts the work done for it, divided by its weight; the waiting child with the lowest counter is next. A child
that begins to wait is lifted to the lowest counter of those that wait, so that idle time earns no credit.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")

SWEEP_CHILDREN = 64
"""Number of children from which on those without work are looked for, to be forgotten."""


class Step(NamedTuple):
    """One step of the path from the root to a leaf: the name of a child, and its weight."""

    name: Hashable
    weight: float = 1.0


@dataclass(eq=False, slots=True)
class Node(Generic[Item]):
    """A branch of the tree, or a leaf with its queue; all numbers include those of the nodes below."""

    weight: float = 1.0
    counter: float = 0.0
    """Work done, divided by the weight."""
    waiting: int = 0
    waiting_work: float = 0.0
    running: int = 0
    """Sequences that run."""
    busy: int = 0
    """Number of children for which anything waits or runs."""
    floor: float = 0.0
    """Lowest counter among the waiting children when one was last chosen."""
    children: "dict[Hashable, Node[Item]]" = field(default_factory=dict)
    queue: deque[Item] = field(default_factory=deque)

    @property
    def is_busy(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self.waiting or self.running)

    def lowest(self) -> float:
        """Return the counter to which a child is lifted when it begins to wait."""
        return min((child.counter for child in self.children.values() if child.waiting), default=self.floor)

    def sweep(self) -> None:
        """Forget children without work that would be lifted to the floor anyway; all of them if none has work."""
        if not self.is_busy:
            self.children.clear()
            self.floor = 0.0
        elif len(self.children) > SWEEP_CHILDREN:
            floor = self.lowest()
            kept = {n: child for n, child in self.children.items() if child.is_busy or child.counter > floor}
            self.children = kept


Path = tuple[Node[Item], ...]
"""The nodes from the root to a leaf, both included."""


class VirtualCounters(Generic[Item]):
    """The tree of counters.

    An item that does not fit may be passed by others until they are ahead of it by `slack`, in work divided by weight:
    so the engine is kept busy, and nobody is passed forever.
    """

    def __init__(self, slack: float) -> None:
        self.root: Node[Item] = Node()
        self._slack = slack

    def path(self, steps: tuple[Step, ...]) -> Path[Item]:
        """Return the nodes of a path, created where they are missing."""
        nodes = [self.root]
        for step in steps:
            parent = nodes[-1]
            child = parent.children.get(step.name)
            if child is None:
                child = parent.children[step.name] = Node(step.weight, counter=parent.lowest())
            nodes.append(child)
        return tuple(nodes)

    def shares(self, steps: tuple[Step, ...]) -> Iterator[float]:
        """Yield the share of each step among what waits next to it, in the order of the path."""
        node: Node[Item] | None = self.root
        for step in steps:
            children = node.children if node else {}
            others = sum(child.weight for name, child in children.items() if child.waiting and name != step.name)
            yield step.weight / (step.weight + others)
            node = children.get(step.name)

    def waiting_work(self, steps: tuple[Step, ...]) -> float:
        """Return the work that waits at the end of a path."""
        node: Node[Item] | None = self.root
        for step in steps:
            node = node.children.get(step.name) if node else None
        return node.waiting_work if node else 0.0

    def add(self, path: Path[Item], item: Item, work: float) -> None:
        """Add an item to the queue of a leaf."""
        for parent, node in pairwise(path):
            if not node.waiting:
                node.counter = max(node.counter, parent.lowest())
        _count(path, waiting=1, work=work)
        path[-1].queue.append(item)

    def remove(self, path: Path[Item], item: Item, work: float) -> None:
        """Remove a waiting item."""
        path[-1].queue.remove(item)
        _count(path, waiting=-1, work=-work)
        self.sweep(path)

    def choose(self, fits: Callable[[Item], bool]) -> Item | None:
        """Return the next item that fits, None if nobody may pass those that do not; it goes on waiting."""
        return self._choose(self.root, fits)

    def _choose(self, node: Node[Item], fits: Callable[[Item], bool]) -> Item | None:
        if node.queue:
            return node.queue[0] if fits(node.queue[0]) else None
        waiting = sorted((child for child in node.children.values() if child.waiting), key=_order)
        for child in waiting:
            if child.counter > waiting[0].counter + self._slack:
                break
            if (item := self._choose(child, fits)) is not None:
                node.floor = max(node.floor, waiting[0].counter)
                return item
        return None

    @staticmethod
    def charge(path: Path[Item], work: float) -> None:
        """Count work that was done for a leaf; negative if less was done than was charged before."""
        for node in path:
            node.counter += work / node.weight

    @staticmethod
    def run(path: Path[Item], sequences: int) -> None:
        """Count sequences that begin to run, or end if negative."""
        _count(path, running=sequences)

    @staticmethod
    def sweep(path: Path[Item]) -> None:
        """Forget what has no work, after something on `path` has ended."""
        for node in path[:-1]:
            node.sweep()


def _order(node: Node[Item]) -> tuple[float, int]:
    """The lowest counter first; of equal ones, who has less in the engine."""
    return node.counter, node.running


def _count(path: Path[Item], *, waiting: int = 0, running: int = 0, work: float = 0.0) -> None:
    """Add to the numbers of all nodes of a path."""
    was_busy = [node.is_busy for node in path]
    for node in path:
        node.waiting += waiting
        node.running += running
        node.waiting_work = node.waiting_work + work if node.waiting else 0.0
    for parent, node, before in zip(path, path[1:], was_busy[1:], strict=False):
        parent.busy += node.is_busy - before
