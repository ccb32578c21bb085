"""What reading a YAML document is made of: nodes to values, and every mistake with its place.

A `TreeReading` is one file being read. Each method takes a node and the key it stands under, and gives the value, or
complains to `Found` and gives something harmless, so that one pass finds every mistake.
"""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches

from watchbill.errors import Problem
from watchbill_collector.yamltree import NODES_MAX, Listing, Mapping, Scalar, Tree, kind, shown

PROBLEMS_MAX = 200
"""Mistakes that are reported at once; the rest is summed up in one."""


class Found:
    """The mistakes found so far, bounded."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.more = 0

    def add(self, file: str, line: int, key: str, got: str, wanted: str) -> None:
        """One more mistake."""
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(Problem(file, line, key, got, wanted))
        else:
            self.more += 1

    def all(self) -> list[Problem]:
        """All of them, file by file, from the top of each to its end."""
        order = {
            file: number
            for number, file in enumerate(dict.fromkeys(problem.file for problem in self.problems))
        }
        self.problems.sort(key=lambda problem: (order[problem.file], problem.line))
        if not self.more:
            return self.problems
        last = Problem(self.problems[-1].file, 0, "", f"{self.more} more mistakes", "none")
        return [*self.problems, last]


class TreeReading:
    """One file that is being read."""

    def __init__(self, file: str, found: Found) -> None:
        self.file = file
        self.found = found
        self._visited = 0
        self._too_many = False

    @property
    def complaints(self) -> int:
        """How many mistakes have been found, to see whether a part of the file had any."""
        return len(self.found.problems) + self.found.more

    def text(self, node: Tree, at: str) -> str | None:
        """The text of a scalar, empty for null; None, with a complaint, for anything else."""
        if not isinstance(node, Scalar):
            self.bad(node, at, kind(node), "text")
            return None
        return "" if node.null else node.text

    # The tree.

    def items(self, node: Tree | None, at: str) -> Iterator[Tree]:
        """The entries of a list; nothing where nothing stands."""
        if node is None or (isinstance(node, Scalar) and node.null):
            return
        if not isinstance(node, Listing):
            self.bad(node, at, kind(node), "a list")
            return
        for item in node.items:
            if self._visit(item):
                yield item

    def mapping(self, node: Tree, at: str, allowed: Sequence[str] | None) -> dict[str, Tree] | None:
        """A mapping's pairs, merge keys filled in; complaints about what is not allowed and what is there
        twice."""
        if not isinstance(node, Mapping):
            self.bad(node, at, kind(node), "a mapping")
            return None
        merged: dict[str, Tree] = {}
        own: dict[str, Tree] = {}
        for key, value in node.pairs:
            if not self._visit(value):
                return None
            if not isinstance(key, Scalar):
                self.bad(key, at, kind(key), "a key that is text")
            elif key.text == "<<" and key.plain:
                for base in value.items if isinstance(value, Listing) else [value]:
                    for name, inner in (self.mapping(base, f"{at}.<<", allowed) or {}).items():
                        merged.setdefault(name, inner)
            elif key.text in own:
                name = shown(key.text).strip('"')
                self.bad(key, f"{at}.{name}" if at else name, "the same key again", "each key once")
            elif allowed is not None and key.text not in allowed:
                close = get_close_matches(key.text, allowed, 1)
                wanted = f'"{close[0]}"?' if close else "one of " + ", ".join(allowed)
                self.bad(key, at, f"the unknown key {shown(key.text)}", wanted)
            else:
                own[key.text] = value
        return merged | own

    def _visit(self, node: Tree) -> bool:
        """Count what is looked at, aliases as often as they are used."""
        self._visited += 1
        if self._visited <= NODES_MAX:
            return True
        if not self._too_many:
            self._too_many = True
            self.bad(node, "", f"more than {NODES_MAX} nodes with all aliases filled in", "a smaller file")
        return False

    def bad(self, node: Tree, key: str, got: str, wanted: str) -> None:
        """Complain about a node."""
        self.found.add(self.file, node.line, key, got, wanted)
