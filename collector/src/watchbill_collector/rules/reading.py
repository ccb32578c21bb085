"""What reading a rule file is made of: nodes to values, and every mistake with its place.

A `Reading` is one file being read. Each method takes a node and the key it stands under, and gives the value, or
complains to `Found` and gives something harmless, so that one pass finds every mistake.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches

from watchbill.config import Duration, NotWanted
from watchbill.errors import Problem
from watchbill.limits import LABEL_NAME_BYTES_MAX, LABEL_VALUE_BYTES_MAX
from watchbill_collector.labels import METRIC_NAME
from watchbill_collector.matching import InvalidRegex
from watchbill_collector.promql import ast
from watchbill_collector.promql.errors import PromqlError
from watchbill_collector.promql.plan import Made, Plan, plan
from watchbill_collector.rules.document import NODES_MAX, Listing, Mapping, Scalar, Tree, kind, shown
from watchbill_collector.rules.needs import WINDOW_MS_MAX, pinned, watches
from watchbill_collector.rules.template import VARIABLES, Template
from watchbill_collector.rules.template_expressions import BadTemplate

PROBLEMS_MAX = 200
"""Mistakes that are reported at once; the rest is summed up in one."""
EXPR_CHARS_MAX = 65_536
_LABEL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


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


class Reading:
    """One file that is being read. `plans` remembers expressions that are planned already, by their text, and `made`
    the nodes of their parts."""

    def __init__(self, file: str, found: Found, plans: dict[str, Plan], made: Made) -> None:
        self.file = file
        self.found = found
        self.plans = plans
        self.made = made
        self._visited = 0
        self._too_many = False

    @property
    def complaints(self) -> int:
        """How many mistakes have been found, to see whether a part of the file had any."""
        return len(self.found.problems) + self.found.more

    # Values.

    def expr(self, node: Tree | None, rule: Tree, at: str) -> Plan | None:
        """A planned expression that rules can use; None, with a complaint, if it is not one."""
        if node is None:
            self.bad(rule, at, "no expression", "PromQL")
            return None
        text = self.text(node, at)
        if text is None:
            return None
        text = text.strip()
        if not text or len(text) > EXPR_CHARS_MAX:
            self.bad(node, at, f"{len(text)} characters", f"PromQL of 1 to {EXPR_CHARS_MAX} characters")
            return None
        known = self.plans.get(text)
        if known is not None:
            return known
        try:
            made = plan(text, self.made)
        # Also what the engine says of a query when it is planned, such as a regular expression that is none.
        except PromqlError as error:
            message = str(error)
            named = error.expression and error.expression not in message and error.expression != text
            where = f" in {shown(error.expression)}" if named else ""
            self.bad(node, at, f"{shown(text)}: {message}{where}", "PromQL that can be evaluated")
            return None
        if not self._usable(node, at, made):
            return None
        self.plans[text] = made
        return made

    def _usable(self, node: Tree, at: str, made: Plan) -> bool:
        if made.kind not in (ast.Kind.VECTOR, ast.Kind.SCALAR):
            self.bad(node, at, f"{shown(made.text)}, a {made.kind.value}", "an instant vector or a scalar")
            return False
        fixed = pinned(made.expr)
        if fixed is not None:
            self.bad(
                node,
                at,
                f"{shown(str(fixed))}, a fixed time",
                "rules that look at the present, without @ and a time",
            )
            return False
        for watch in watches(made.expr):
            if watch.window_ms > WINDOW_MS_MAX:
                self.bad(
                    node,
                    at,
                    f"a window of {watch.window_ms // 86_400_000} days in {shown(made.text)}",
                    "at most 31d",
                )
                return False
            try:
                for matcher in watch.matchers:
                    matcher.check()
            except InvalidRegex as error:
                self.bad(node, at, str(error), "a regular expression in RE2 syntax")
                return False
        return True

    def templates(
        self, pairs: Iterable[tuple[str, str, Tree]], at: str, *, queries: bool = False
    ) -> tuple[tuple[str, Template], ...]:
        """Parsed templates by name, sorted. `queries`: whether they may ask for more than the alert has."""
        made: dict[str, Template] = {}
        for name, text, node in pairs:
            try:
                made[name] = Template.parse(text, VARIABLES, queries=queries)
            except BadTemplate as error:
                self.bad(node, f"{at}.{name}", str(error), "a template that can be filled in")
        return tuple(sorted(made.items(), key=lambda pair: pair[0]))

    def pairs(self, node: Tree | None, at: str, *, labels: bool = False) -> list[tuple[str, str, Tree]]:
        """Names and texts; names are checked, and values too where they are labels."""
        if node is None or (isinstance(node, Scalar) and node.null):
            return []
        pairs = self.mapping(node, at, None)
        made: list[tuple[str, str, Tree]] = []
        for name, value in (pairs or {}).items():
            text = self.text(value, f"{at}.{name}")
            if text is None:
                continue
            if not _LABEL_NAME.fullmatch(name) or name == METRIC_NAME or len(name) > LABEL_NAME_BYTES_MAX:
                self.bad(
                    value,
                    at,
                    shown(name),
                    "a label name: letters, digits and _, no digit first; not __name__",
                )
            elif labels and "{{" not in text and len(text.encode()) > LABEL_VALUE_BYTES_MAX:
                self.bad(
                    value, f"{at}.{name}", f"{len(text.encode())} bytes", f"at most {LABEL_VALUE_BYTES_MAX}"
                )
            else:
                made.append((name, text, value))
        return made

    def duration(self, node: Tree | None, at: str, default: int) -> int:
        """Milliseconds."""
        text = None if node is None else self.text(node, at)
        if node is None or text is None:
            return default
        if text == "0":
            return 0
        try:
            return Duration.from_config(text).ms
        except (NotWanted, OverflowError):
            self.bad(node, at, shown(text), 'a duration such as "30s", "5m" or "1h30m"')
            return default

    def whole(self, node: Tree | None, at: str) -> int:
        """A whole number, 0 where nothing stands."""
        text = None if node is None else self.text(node, at)
        if node is None or text is None:
            return 0
        plain = isinstance(node, Scalar) and node.plain
        if not (plain and text.isascii() and text.isdigit() and len(text) < 10):
            self.bad(node, at, shown(text), "a whole number, 0 for no limit")
            return 0
        return int(text)

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
                self.bad(key, f"{at}.{key.text}" if at else key.text, "the same key again", "each key once")
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
