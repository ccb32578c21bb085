"""Annotation and label templates: the forms of Go's text/template that alerts use.

`{{ $labels.instance }}`, `{{ $value | humanize }}`, `{{ printf "%.1f" $value }}`, `{{ if gt $value 90.0 }}
.. {{ else }} .. {{ end }}`, `{{ with }}`, `{{ range $name, $text := $labels }}`, variables, comments, and
trimming with `{{-` and `-}}`; and `query` in annotations, where what it asks is known beforehand
(`template_queries.py`). What goes wrong while a text is made stands in the text: an alert with a broken annotation is
still an alert.

A template is parsed once, into nested tuples of closures over a `Scope`. It can go round its labels and what a query
gave only, and not more than ROUNDS_MAX times in all.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from watchbill_collector.rules import golang
from watchbill_collector.rules.template_expressions import (
    NESTING_MAX,
    REFUSED,
    BadTemplate,
    Expression,
    Scope,
    Value,
)
from watchbill_collector.rules.template_functions import TEXT_CHARS_MAX, Failed, truth
from watchbill_collector.rules.template_queries import Ask, NotForeseen, read_by

TEMPLATE_CHARS_MAX = 16_384
"""Source of one template."""

ROUNDS_MAX = 10_000
"""Rounds of all `range` blocks of one text together."""

_CUT = " [cut]"
VARIABLES = frozenset(["labels", "value", "externalLabels", "externalURL", "incomplete"])
"""The variables of a rule's templates. `incomplete` is ours."""


_Text = Callable[[Scope, list[str]], None]


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template. Equal when the text is equal."""

    text: str
    _parts: tuple[_Text, ...] | None = field(compare=False, repr=False)
    asked: tuple[str, ...] = field(default=(), compare=False)
    """What its queries ask, arguments left open."""

    @staticmethod
    def parse(text: str, variables: frozenset[str] | None = None, *, queries: bool = False) -> "Template":
        """Parse; raises BadTemplate, which names the offending part. With `variables`, which are there from
        the start, every other has to be set before it is used; without, that is found while filling in. `queries`:
        whether there is somebody to ask.
        """
        if "{{" not in text:
            return Template(text, None)
        if len(text) > TEMPLATE_CHARS_MAX:
            raise BadTemplate(f"{len(text)} characters, at most {TEMPLATE_CHARS_MAX} are allowed")
        parser = _Parser(text, variables, queries=queries)
        parts = parser.parse()
        return Template(text, parts, tuple(dict.fromkeys(parser.asked)))

    @property
    def constant(self) -> bool:
        """Whether there is nothing to fill in."""
        return self._parts is None

    def expand(
        self,
        labels: Mapping[str, str],
        value: float,
        *,
        external_labels: Mapping[str, str] | None = None,
        external_url: str = "",
        now_s: float = 0.0,
        incomplete: str = "",
        asking: Ask | None = None,
    ) -> str:
        """The text for one alert. Never fails: an error is the text.

        `incomplete` is `$incomplete` in the template: what is missing of the alert's data, empty when nothing is.
        `asking` answers queries.
        """
        if self._parts is None:
            return self.text
        scope = Scope(labels, value, external_labels or {}, external_url, now_s, incomplete)
        scope.asking = asking
        scope.dot = scope.root()
        scope.variables = {
            "labels": dict(labels),
            "value": value,
            "externalLabels": dict(external_labels or {}),
            "externalURL": external_url,
            "incomplete": incomplete,
        }
        out: list[str] = []
        try:
            for part in self._parts:
                part(scope, out)
        except Failed as error:
            return f"<error expanding template: {error}>"
        whole = "".join(out)
        return whole if len(whole) <= TEXT_CHARS_MAX else whole[: TEXT_CHARS_MAX - len(_CUT)] + _CUT

    def fill(self, scope: Scope) -> str:
        """The text over a scope of the caller's own making. Raises Failed, for who wants to say it in his way."""
        out: list[str] = []
        for part in self._parts or ():
            part(scope, out)
        whole = "".join(out) if self._parts is not None else self.text
        return whole if len(whole) <= TEXT_CHARS_MAX else whole[: TEXT_CHARS_MAX - len(_CUT)] + _CUT


# Parsing.

_ACTION = re.compile(
    r"\{\{(-(?=\s))?\s*((?:\"(?:\\.|[^\"\\])*\"|`[^`]*`|[^\"`])*?)\s*((?<=\s)-)?\}\}", re.DOTALL
)
_COMMENT = re.compile(r"\{\{(-\s)?/\*(?:(?!\*/).)*\*/(\s-)?\}\}", re.DOTALL)
"""A comment fills its braces, but for the marks that trim."""


class _Parser:
    """Text and actions in turn; blocks by recursion, bounded."""

    def __init__(self, text: str, variables: frozenset[str] | None, *, queries: bool = False) -> None:
        self.asked: list[str] = []
        self._queries = queries
        self._pieces = self._split(text)
        self._declared = None if variables is None else set(variables)
        self._at = 0
        self._depth = 0
        self._rounds = 0
        self._own: list[set[str]] = [set()]

    @staticmethod
    def _split(text: str) -> list[tuple[str, str]]:
        pieces: list[tuple[str, str]] = []
        at, trim = 0, False
        while True:
            begin = text.find("{{", at)
            literal = text[at:] if begin < 0 else text[at:begin]
            comment = None if begin < 0 else _COMMENT.match(text, begin)
            match = comment or (None if begin < 0 else _ACTION.match(text, begin))
            if begin >= 0 and match is None:
                raise BadTemplate(f"unclosed action at {text[begin : begin + 40]!r}")
            if trim:
                literal = literal.lstrip()
            if match is not None and match.group(1):
                literal = literal.rstrip()
            if literal:
                pieces.append(("text", literal))
            if match is None:
                return pieces
            at = match.end()
            if comment is not None:
                trim = bool(comment.group(2))
                continue
            body = match.group(2).strip()
            if body.startswith("/*"):
                raise BadTemplate(f"a comment that does not fill its braces: {{{{{body[:40]}}}}}")
            pieces.append(("action", body))
            trim = bool(match.group(3))

    def parse(self) -> tuple[_Text, ...]:
        """The parts of the whole text."""
        parts, end = self._block()
        if end:
            raise BadTemplate(f"unexpected {{{{{end}}}}}")
        return parts

    def _block(self) -> tuple[tuple[_Text, ...], str]:
        """Parts up to `end` or `else`, and which of the two it was."""
        parts: list[_Text] = []
        while self._at < len(self._pieces):
            kind, body = self._pieces[self._at]
            self._at += 1
            if kind == "text":
                parts.append(_literal(body))
                continue
            word = body.split(None, 1)[0] if body else ""
            if word in ("end", "else"):
                return tuple(parts), body
            if word in REFUSED:
                raise BadTemplate(f"{word!r} is not supported in templates (in {{{{{body}}}}})")
            if word in ("if", "with"):
                parts.append(self._scoped(partial(self._branch, word, body[len(word) :])))
            elif word == "range":
                parts.append(self._scoped(partial(self._range, body[len(word) :])))
            elif word in ("break", "continue"):
                parts.append(self._leave(body))
            else:
                parts.append(self._action(body))
        return tuple(parts), ""

    def _scoped(self, make: Callable[[], _Text]) -> _Text:
        """A block: variables that it declares are its own, and are as they were behind it."""
        self._depth += 1
        if self._depth > NESTING_MAX:
            raise BadTemplate(f"more than {NESTING_MAX} blocks within one another")
        outer = None if self._declared is None else set(self._declared)
        self._own.append(set())
        block = make()
        own = self._own.pop()
        self._declared = outer
        self._depth -= 1
        if not own:
            return block

        def run(scope: Scope, out: list[str]) -> None:
            before = {name: scope.variables[name] for name in own & scope.variables.keys()}
            try:
                block(scope, out)
            finally:
                for name in own:
                    scope.variables.pop(name, None)
                scope.variables.update(before)

        return run

    def _branch(self, word: str, condition: str) -> _Text:
        expression = Expression(condition)
        name = self._declare(expression)
        test = self._whole(expression)
        then, end = self._block()
        otherwise: tuple[_Text, ...] = ()
        if end.startswith("else"):
            rest = end[4:].strip()
            if rest.split(None, 1)[:1] == [word]:
                otherwise = (self._scoped(lambda: self._branch(word, rest[len(word) :])),)
                end = "end"
            elif rest:
                raise BadTemplate(f"unexpected {{{{{end}}}}}")
            else:
                otherwise, end = self._block()
        if end != "end":
            raise BadTemplate(f"{{{{{word}}}}} without {{{{end}}}}")

        def branch(scope: Scope, out: list[str]) -> None:
            found = test(scope)
            if name is not None:
                scope.variables[name] = found
            true = truth(found)
            if word == "if":
                for part in then if true else otherwise:
                    part(scope, out)
                return
            before = scope.dot
            scope.dot = found if true else before
            for part in then if true else otherwise:
                part(scope, out)
            scope.dot = before

        return branch

    def _range(self, over: str) -> _Text:
        """`{{ range [$name, ] $text := LABELS }}`: in the order of the names, as Go goes round a map."""
        names, expression = _ranged(over)
        if self._declared is not None:
            for used in expression.variables():
                if used and used not in self._declared:
                    raise BadTemplate(f"undefined variable ${used}")
            self._declared.update(names)
        self._own[-1].update(names)
        held = self._whole(expression)
        self._rounds += 1
        body, end = self._block()
        self._rounds -= 1
        otherwise: tuple[_Text, ...] = ()
        if end == "else":
            otherwise, end = self._block()
        if end != "end":
            raise BadTemplate("{{range}} without {{end}}")

        def run(scope: Scope, out: list[str]) -> None:
            found = held(scope)
            if not isinstance(found, dict | tuple):
                raise Failed(f"range can't iterate over {golang.plain(found)[:40]}")
            before = scope.dot
            keys = sorted(found) if isinstance(found, dict) else range(len(found))
            for key in keys:
                scope.rounds += 1
                if scope.rounds > ROUNDS_MAX:
                    raise Failed(f"range: more than {ROUNDS_MAX} rounds")
                each: object = found[key]
                scope.dot = each
                scope.variables.update(zip(names[::-1], (each, key), strict=False))
                try:
                    for part in body:
                        part(scope, out)
                except _NextRound:
                    continue
                except _Enough:
                    break
            scope.dot = before
            if not found:
                for part in otherwise:
                    part(scope, out)

        return run

    def _leave(self, body: str) -> _Text:
        if not self._rounds:
            raise BadTemplate(f"{{{{{body}}}}} outside {{{{range}}}}")
        if body not in ("break", "continue"):
            raise BadTemplate(f"unexpected {{{{{body}}}}}")
        signal = _Enough if body == "break" else _NextRound

        def leave(scope: Scope, out: list[str]) -> None:  # noqa: ARG001  # It writes nothing.
            raise signal

        return leave

    def _whole(self, expression: Expression) -> Value:
        """The pipeline, once it is known what it asks."""
        value = expression.whole()
        for shape in expression.asked:
            if not self._queries:
                raise BadTemplate("'query' is not supported here, only in annotations of alerts")
            if shape is None:
                raise BadTemplate(
                    f"'query' needs PromQL that stands in the template, or printf of it: {expression}"
                )
            try:
                read_by(shape)
            except NotForeseen as error:
                raise BadTemplate(f"'query' cannot be prepared: {error} (in {expression})") from None
            self.asked.append(shape)
        return value

    def _declare(self, expression: Expression) -> str | None:
        """The variable that an expression sets; every one that it uses has to be known."""
        name, new = expression.assigned()
        if name is not None and new:
            self._own[-1].add(name)
        if self._declared is None:
            return name
        if name is not None and not new and name not in self._declared:
            raise BadTemplate(f"undefined variable ${name}")
        for used in expression.variables():
            if used and used not in self._declared:
                raise BadTemplate(f"undefined variable ${used}")
        if name is not None:
            self._declared.add(name)
        return name

    def _action(self, body: str) -> _Text:
        expression = Expression(body)
        name = self._declare(expression)
        value = self._whole(expression)
        if name is None:
            return lambda scope, out: out.append(golang.plain(value(scope)))

        def assign(scope: Scope, out: list[str]) -> None:  # noqa: ARG001  # An assignment writes nothing.
            scope.variables[name] = value(scope)

        return assign


class _NextRound(Exception):
    """`{{ continue }}`."""


class _Enough(Exception):
    """`{{ break }}`."""


_RANGED = re.compile(r"\s*(?:\$(\w+)\s*(?:,\s*\$(\w+)\s*)?:=)?(.*)", re.DOTALL)


def _ranged(over: str) -> tuple[tuple[str, ...], Expression]:
    """The variables that a `range` sets, and what it goes round."""
    found = _RANGED.fullmatch(over)
    assert found is not None
    names = tuple(name for name in found.groups()[:2] if name is not None)
    return names, Expression(found.group(3))


def _literal(text: str) -> _Text:
    return lambda _, out: out.append(text)
