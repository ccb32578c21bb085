"""label_replace and label_join: functions of labels alone, worked out once per frame."""

import re
from abc import abstractmethod
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import re2

from watchbill_collector.labels import METRIC_NAME, STRINGS, LabelFrame
from watchbill_collector.matching import REGEX_MEMORY_BYTES_MAX
from watchbill_collector.promql import ast
from watchbill_collector.promql.errors import ExecutionFailed, TooMany
from watchbill_collector.promql.frames import without
from watchbill_collector.promql.merging import merge_equal_rows
from watchbill_collector.promql.nodes import Node, Run
from watchbill_collector.promql.text import valid_label_name
from watchbill_collector.promql.values import Grid, Value, Vector
from watchbill_collector.promql.windows import Mask

_PATTERNS_MAX = 256
LABEL_CHARS_MAX = 65_536
"""Characters of a label value that a query makes; a longer one fails. Nested joins of a label with itself would
otherwise grow beyond any memory."""
_GROUP_DIGITS_MAX = 8
"""Longer numbers name no group."""
_TEMPLATE = re.compile(r"\$(?:\$|(\w+)|\{(\w+)\})", re.ASCII)


def _strings(expr: ast.Call) -> list[str]:
    """The string arguments behind the vector."""
    found = []
    for arg in map(ast.bare, expr.args[1:]):
        assert isinstance(arg, ast.String)
        found.append(arg.value)
    return found


class _LabelNode(Node):
    """A vector with one label set anew: `_replaced` gives the frame and the rows that it touched."""

    target = ""

    def __init__(self, expr: ast.Call, vector: Node) -> None:
        super().__init__(expr)
        self._vector = vector
        self._strings = _strings(expr)
        self.invariant = vector.invariant
        self._check()

    def _evaluate(self, run: Run, grid: Grid) -> Value:
        vector = self._vector.vector(run, grid)
        if run.budget.shares_memory:
            # The new values may be lent ones (`Budget.code`): they must not outlive the query on a shared frame.
            frame, touched = self._replaced(vector.labels, run.budget.code)
        else:
            key = (type(self).__name__, *self._strings)
            frame, touched = vector.labels.derived(
                key, lambda: self._replaced(vector.labels, run.budget.code)
            )
        drop = vector.drop_name
        if self._strings[0] == METRIC_NAME:
            drop = vector.drop_mask() & ~touched
        out = Vector(frame, vector.values, vector.present, drop, vector.ordered)
        return merge_equal_rows(out, strict=True)

    @abstractmethod
    def _check(self) -> None:
        """Raise ExecutionFailed for strings that can never work: when planned, so that rule files show it."""

    @abstractmethod
    def _replaced(self, frame: LabelFrame, code: Callable[[str], int]) -> tuple[LabelFrame, Mask]:
        """The labels afterwards, and which rows were touched; `code` gives new values their numbers."""


class LabelReplaceNode(_LabelNode):
    """label_replace(v, target, replacement, source, regex)."""

    def _check(self) -> None:
        target, _, _, regex = self._strings
        try:
            self._pattern = _pattern(regex)
        except re2.error:
            raise ExecutionFailed(
                f"invalid regular expression in label_replace(): {regex}", str(self.expr)
            ) from None
        if not valid_label_name(target):
            raise ExecutionFailed(
                f"invalid destination label name in label_replace(): {target}", str(self.expr)
            )

    def _replaced(self, frame: LabelFrame, code: Callable[[str], int]) -> tuple[LabelFrame, Mask]:
        target, template, source, _ = self._strings
        codes, which = np.unique(frame.column(source), return_inverse=True)
        new, matched = [], []
        for known in codes.tolist():
            match = self._pattern.fullmatch(STRINGS.text(known))
            matched.append(match is not None)
            new.append(code(expanded(template, match)) if match is not None else 0)
        touched = np.array(matched, np.bool_)[which.reshape(-1)]
        if not touched.any():
            return frame, touched
        replaced = np.array(new, np.int32)[which.reshape(-1)]
        return frame.with_column(target, np.where(touched, replaced, frame.column(target))), touched


@lru_cache(_PATTERNS_MAX)
def _pattern(regex: str) -> "re2._Regexp[str]":
    options = re2.Options()
    options.log_errors = False
    # The dot matches a newline too.
    options.dot_nl = True
    options.max_mem = REGEX_MEMORY_BYTES_MAX
    return re2.compile(regex, options)


def expanded(template: str, match: "re2._Match[str]") -> str:
    """A replacement in Go's notation: `$1`, `${1}`, `$name`, `$$`; what did not take part is empty."""
    names = match.re.groupindex

    def one(found: re.Match[str]) -> str:
        name = found.group(1) or found.group(2)
        if name is None:
            return "$"
        if name.isdigit() and (name == "0" or name[0] != "0"):
            number = int(name) if len(name) <= _GROUP_DIGITS_MAX else match.re.groups + 1
            return (match.group(number) or "") if number <= match.re.groups else ""
        return (match.group(name) or "") if name in names else ""

    out, length, position = [], 0, 0
    for found in _TEMPLATE.finditer(template):
        out += [template[position : found.start()], one(found)]
        length += len(out[-2]) + len(out[-1])
        _check_length(length)
        position = found.end()
    out.append(template[position:])
    _check_length(length + len(out[-1]))
    return "".join(out)


def _check_length(length: int) -> None:
    if length > LABEL_CHARS_MAX:
        raise TooMany(f"the query makes a label value of more than {LABEL_CHARS_MAX} characters")


class LabelJoinNode(_LabelNode):
    """label_join(v, target, separator, source...)."""

    def _check(self) -> None:
        for source in self._strings[2:]:
            if not valid_label_name(source):
                raise ExecutionFailed(f"invalid source label name in label_join(): {source}", str(self.expr))
        if not valid_label_name(self._strings[0]):
            raise ExecutionFailed(
                f"invalid destination label name in label_join(): {self._strings[0]}", str(self.expr)
            )

    def _replaced(self, frame: LabelFrame, code: Callable[[str], int]) -> tuple[LabelFrame, Mask]:
        target, separator, *sources = self._strings
        everything = np.ones(len(frame), np.bool_)
        if not sources:  # Nothing joined is the empty label, which is none.
            return without(frame, (target,)), everything
        columns = np.stack([frame.column(source) for source in sources], axis=1)
        rows, which = np.unique(columns, axis=0, return_inverse=True)
        joined = []
        for row in rows.tolist():
            parts = [STRINGS.text(part) for part in row]
            _check_length(sum(map(len, parts)) + len(separator) * (len(parts) - 1))
            joined.append(code(separator.join(parts)))
        column = np.array(joined, np.int32)[which.reshape(-1)]
        return frame.with_column(target, column), everything
