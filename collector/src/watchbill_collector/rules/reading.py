"""What reading a rule file is made of, beyond what reading any YAML document is (`yamlreading.py`)."""

import re
from collections.abc import Iterable

from watchbill.config import Duration, NotWanted
from watchbill.limits import LABEL_NAME_BYTES_MAX, LABEL_VALUE_BYTES_MAX
from watchbill_collector.labels import METRIC_NAME
from watchbill_collector.matching import InvalidRegex
from watchbill_collector.promql import ast
from watchbill_collector.promql.errors import PromqlError
from watchbill_collector.promql.plan import Made, Plan, plan
from watchbill_collector.rules.needs import WINDOW_MS_MAX, pinned, watches
from watchbill_collector.rules.template import VARIABLES, Template
from watchbill_collector.rules.template_expressions import BadTemplate
from watchbill_collector.yamlreading import Found, TreeReading
from watchbill_collector.yamltree import Scalar, Tree, shown

EXPR_CHARS_MAX = 65_536
_LABEL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Reading(TreeReading):
    """One file that is being read. `plans` remembers expressions that are planned already, by their text, and `made`
    the nodes of their parts."""

    def __init__(self, file: str, found: Found, plans: dict[str, Plan], made: Made) -> None:
        super().__init__(file, found)
        self.plans = plans
        self.made = made

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
