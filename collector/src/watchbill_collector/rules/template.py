"""Annotation and label templates: the forms of Go's text/template that alerts use.

`{{ $labels.instance }}`, `{{ $value | humanize }}`, `{{ printf "%.1f" $value }}`, `{{ if gt $value 90.0 }}
.. {{ else }} .. {{ end }}`, `{{ with }}`, `{{ range $name, $text := $labels }}`, variables, comments, and
trimming with `{{-` and `-}}`. What asks for more data than the alert has (`query`, and what only its
results are for: `first`, `value`, `sortByLabel`, ...) is refused by name when the file is loaded. What goes
wrong while a text is made stands in the text: an alert with a broken annotation is still an alert.

A template is parsed once, into nested tuples of closures over a `Scope`. It can go round its labels only,
and not more than ROUNDS_MAX times in all.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from watchbill_collector.rules import golang
from watchbill_collector.rules.template_functions import FUNCTIONS, TEXT_CHARS_MAX, Failed, truth

TEMPLATE_CHARS_MAX = 16_384
"""Source of one template."""
NESTING_MAX = 32
"""Blocks and parentheses within one another."""

ROUNDS_MAX = 10_000
"""Rounds of all `range` blocks of one text together."""

_CUT = " [cut]"
_REFUSED = frozenset(
    [
        "query",
        "first",
        "value",
        "label",
        "strvalue",
        "sortByLabel",
        "tmpl",
        "template",
        "define",
        "block",
        "call",
        "js",
        "slice",
    ]
)


VARIABLES = frozenset(["labels", "value", "externalLabels", "externalURL", "incomplete"])
"""The variables of a rule's templates. `incomplete` is ours."""


class BadTemplate(ValueError):
    """The template cannot be used; the message says why."""


@dataclass(slots=True)
class Scope:
    """What a template sees."""

    labels: Mapping[str, str]
    value: float
    external_labels: Mapping[str, str]
    external_url: str
    now_s: float
    incomplete: str = ""
    dot: object = None
    variables: dict[str, object] = field(default_factory=dict)
    rounds: int = 0

    def root(self) -> dict[str, object]:
        """The data of `.Labels` and its kin."""
        return {
            "Labels": dict(self.labels),
            "Value": self.value,
            "ExternalLabels": dict(self.external_labels),
            "ExternalURL": self.external_url,
            "Incomplete": self.incomplete,
        }


_Value = Callable[[Scope], object]
_Text = Callable[[Scope, list[str]], None]


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template. Equal when the text is equal."""

    text: str
    _parts: tuple[_Text, ...] | None = field(compare=False, repr=False)

    @staticmethod
    def parse(text: str, variables: frozenset[str] | None = None) -> "Template":
        """Parse; raises BadTemplate, which names the offending part. With `variables`, which are there from
        the start, every other has to be set before it is used; without, that is found while filling in.
        """
        if "{{" not in text:
            return Template(text, None)
        if len(text) > TEMPLATE_CHARS_MAX:
            raise BadTemplate(f"{len(text)} characters, at most {TEMPLATE_CHARS_MAX} are allowed")
        return Template(text, _Parser(text, variables).parse())

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
    ) -> str:
        """The text for one alert. Never fails: an error is the text.

        `incomplete` is `$incomplete` in the template: what is missing of the alert's data, empty when nothing is.
        """
        if self._parts is None:
            return self.text
        scope = Scope(labels, value, external_labels or {}, external_url, now_s, incomplete)
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
    r"\{\{(-(?=\s))?\s*(/\*.*?\*/|(?:\"(?:\\.|[^\"\\])*\"|`[^`]*`|[^\"`])*?)\s*((?<=\s)-)?\}\}", re.DOTALL
)
_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:\\.|[^"\\\n])*"|`[^`]*`)|(?P<char>'(?:\\.|[^'\\\n])')|(?P<number>[-+]?(?:0[xX][0-9a-fA-F_]+|0[bB][01_]+|0[oO][0-7_]+|\d[\d_]*\.?\d*(?:[eE][-+]?\d+)?|\.\d+))"""
    r"""|(?P<assign>:?=)|(?P<pipe>\|)|(?P<open>\()|(?P<close>\))|(?P<variable>\$\w*)|(?P<field>\.\w*)|(?P<word>\w+))""",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    spaced: bool


class _Parser:
    """Text and actions in turn; blocks by recursion, bounded."""

    def __init__(self, text: str, variables: frozenset[str] | None) -> None:
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
            match = None if begin < 0 else _ACTION.match(text, begin)
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
            body = match.group(2).strip()
            if not body.startswith("/*"):
                pieces.append(("action", body))
            at, trim = match.end(), bool(match.group(3))

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
            if word in _REFUSED:
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
        expression = _Expression(condition)
        name = self._declare(expression)
        test = expression.whole()
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
        held = expression.whole()
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
            if not isinstance(found, dict):
                raise Failed(f"range can't iterate over {golang.plain(found)[:40]}")
            before = scope.dot
            for name in sorted(found):
                scope.rounds += 1
                if scope.rounds > ROUNDS_MAX:
                    raise Failed(f"range: more than {ROUNDS_MAX} rounds")
                scope.dot = found[name]
                scope.variables.update(zip(names[::-1], (found[name], name), strict=False))
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

    def _declare(self, expression: "_Expression") -> str | None:
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
        expression = _Expression(body)
        name = self._declare(expression)
        value = expression.whole()
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


def _ranged(over: str) -> tuple[tuple[str, ...], "_Expression"]:
    """The variables that a `range` sets, and what it goes round."""
    found = _RANGED.fullmatch(over)
    assert found is not None
    names = tuple(name for name in found.groups()[:2] if name is not None)
    return names, _Expression(found.group(3))


def _literal(text: str) -> _Text:
    return lambda _, out: out.append(text)


class _Expression:
    """One pipeline."""

    def __init__(self, body: str) -> None:
        self._body = body.strip()
        self._tokens: list[_Token] = []
        at = 0
        while at < len(body.rstrip()):
            match = _TOKEN.match(body, at)
            if match is None or match.lastgroup is None:
                raise BadTemplate(f"unexpected {body[at:].strip()[:20]!r} in {{{{{self._body}}}}}")
            spaced = match.start(match.lastgroup) > at or at == 0
            self._tokens.append(_Token(match.lastgroup, match.group(match.lastgroup), spaced))
            at = match.end()
        self._at = 0
        self._depth = 0

    def assigned(self) -> tuple[str | None, bool]:
        """The variable that the action sets, if it is such an action, and whether it is a new one."""
        if len(self._tokens) > 1 and self._tokens[0].kind == "variable" and self._tokens[1].kind == "assign":
            self._at = 2
            return self._tokens[0].text[1:], self._tokens[1].text == ":="
        return None, False

    def variables(self) -> list[str]:
        """The variables that are used, from where reading stands."""
        return [token.text[1:] for token in self._tokens[self._at :] if token.kind == "variable"]

    def whole(self) -> _Value:
        """The pipeline, to the end of the action."""
        value = self._pipeline()
        if self._at < len(self._tokens):
            raise BadTemplate(f"unexpected {self._tokens[self._at].text!r} in {{{{{self._body}}}}}")
        return value

    def _pipeline(self) -> _Value:
        value = self._command(None)
        while self._peek() == "pipe":
            self._at += 1
            value = self._command(value)
        return value

    def _peek(self) -> str:
        return self._tokens[self._at].kind if self._at < len(self._tokens) else ""

    def _command(self, piped: _Value | None) -> _Value:
        if self._peek() == "word" and self._tokens[self._at].text not in ("true", "false", "nil"):
            name = self._tokens[self._at].text
            self._at += 1
            operands = self._operands()
            return _call(name, operands if piped is None else [*operands, piped], self._body)
        operands = self._operands()
        if not operands:
            raise BadTemplate(f"missing value in {{{{{self._body}}}}}")
        if len(operands) > 1 or piped is not None:
            raise BadTemplate(f"a value cannot be called in {{{{{self._body}}}}}")
        return operands[0]

    def _operands(self) -> list[_Value]:
        found: list[_Value] = []
        while self._peek() not in ("", "pipe", "close"):
            found.append(self._operand())
        return found

    def _operand(self) -> _Value:
        token = self._tokens[self._at]
        self._at += 1
        if token.kind == "open":
            self._depth += 1
            if self._depth > NESTING_MAX:
                raise BadTemplate(f"more than {NESTING_MAX} parentheses within one another")
            value = self._pipeline()
            if self._peek() != "close":
                raise BadTemplate(f"unclosed parenthesis in {{{{{self._body}}}}}")
            self._at += 1
            self._depth -= 1
        elif token.kind == "variable":
            value = _variable(token.text[1:])
        elif token.kind == "field":
            value = (
                (lambda scope: scope.dot)
                if token.text == "."
                else _field(lambda scope: scope.dot, token.text[1:])
            )
        elif token.kind == "word":
            value = self._word(token.text)
        else:
            value = _constant(token, self._body)
        while self._at < len(self._tokens) and self._peek() == "field" and not self._tokens[self._at].spaced:
            value = _field(value, self._tokens[self._at].text[1:])
            self._at += 1
        return value

    def _word(self, text: str) -> _Value:
        if text in ("true", "false"):
            known = text == "true"
            return lambda _: known
        if text == "nil":
            return lambda _: None
        return _call(text, [], self._body)


def _constant(token: _Token, body: str) -> _Value:
    if token.kind == "string":
        text = token.text[1:-1] if token.text[0] == "`" else _unescaped(token.text[1:-1])
        return lambda _: text
    if token.kind == "number":
        number = _number(token.text)
        return lambda _: number
    if token.kind == "char":
        code = ord(_unescaped(token.text[1:-1]) or "\0")
        return lambda _: code
    raise BadTemplate(f"unexpected {token.text!r} in {{{{{body}}}}}")


def _number(text: str) -> float | int:
    try:
        return int(text, 0)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise BadTemplate(f"bad number {text!r}") from None


_ESCAPES = {
    "n": "\n",
    "t": "\t",
    "r": "\r",
    "\\": "\\",
    '"': '"',
    "'": "'",
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "v": "\v",
}


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(_one_escape, text)


_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)


def _one_escape(match: re.Match[str]) -> str:
    code = match.group(1) or match.group(2) or match.group(3)
    if code is None:
        return _ESCAPES.get(match.group(4), match.group(0))
    number = int(code, 16)
    if number > 0x10FFFF or 0xD800 <= number < 0xE000 or (match.group(1) and number > 0x7F):
        raise BadTemplate(f"no character has the code {match.group(0)}")
    return chr(number)


def _variable(name: str) -> _Value:
    def value(scope: Scope) -> object:
        if not name:
            return scope.root()
        if name not in scope.variables:
            raise Failed(f"undefined variable ${name}")
        return scope.variables[name]

    return value


_ROOT = {"Labels", "Value", "ExternalLabels", "ExternalURL", "Incomplete"}


def _field(inner: _Value, name: str) -> _Value:
    def value(scope: Scope) -> object:
        found = inner(scope)
        if not isinstance(found, dict):
            raise Failed(f"can't evaluate field {name} in {golang.plain(found)}")
        if found.keys() == _ROOT and name not in found:
            raise Failed(f"can't evaluate field {name}")
        return found.get(name, "")

    return value


# Functions.


def _call(name: str, operands: Sequence[_Value], body: str) -> _Value:
    if name in _REFUSED:
        raise BadTemplate(f"{name!r} is not supported in templates (in {{{{{body}}}}})")
    if name in ("and", "or"):
        return _lazy(name, operands, body)
    function = FUNCTIONS.get(name)
    if function is None:
        raise BadTemplate(f"there is no function {name!r} (in {{{{{body}}}}})")
    least, most, run = function
    if not least <= len(operands) <= most:
        raise BadTemplate(f"{name!r} cannot take {len(operands)} arguments (in {{{{{body}}}}})")

    def value(scope: Scope) -> object:
        try:
            found = run(scope, [operand(scope) for operand in operands])
            if isinstance(found, str) and len(found) > TEXT_CHARS_MAX:
                raise Failed(f"more than {TEXT_CHARS_MAX} characters")
            return found
        except Failed as error:
            raise Failed(f"{name}: {error}") from None

    return value


def _lazy(name: str, operands: Sequence[_Value], body: str) -> _Value:
    if not operands:
        raise BadTemplate(f"{name!r} needs an argument (in {{{{{body}}}}})")

    def value(scope: Scope) -> object:
        found: object = None
        for operand in operands:
            found = operand(scope)
            if truth(found) == (name == "or"):
                break
        return found

    return value
