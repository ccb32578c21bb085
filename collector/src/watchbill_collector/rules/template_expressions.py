"""What stands between the braces of a template: pipelines of functions, variables, fields and constants, as in Go.

An expression is parsed once, into closures over a `Scope`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from watchbill_collector.promql.errors import PromqlError
from watchbill_collector.rules import golang
from watchbill_collector.rules.template_functions import FUNCTIONS, TEXT_CHARS_MAX, Failed, truth
from watchbill_collector.rules.template_queries import OPEN, Ask, Sample, Samples, formatted
from watchbill_collector.rules.template_times import GoTime

NESTING_MAX = 32
"""Blocks and parentheses within one another."""

REFUSED = frozenset(
    [
        "tmpl",
        "template",
        "define",
        "block",
        "call",
        "js",
        "slice",
    ]
)
"""What defines templates of its own, or is for pages."""


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
    asking: Ask | None = None

    def ask(self, text: str) -> Samples:
        """What a query answers."""
        if self.asking is None:
            raise Failed("nothing was asked when the alert was judged")
        try:
            return self.asking(text)
        except PromqlError as error:
            raise Failed(str(error)) from None

    def root(self) -> dict[str, object]:
        """The data of `.Labels` and its kin."""
        return {
            "Labels": dict(self.labels),
            "Value": self.value,
            "ExternalLabels": dict(self.external_labels),
            "ExternalURL": self.external_url,
            "Incomplete": self.incomplete,
        }


Value = Callable[[Scope], object]
"""What a piece of a template stands for, once there is a scope."""


@dataclass(frozen=True, slots=True)
class _Shaped:
    """A value of which something is known when the template is parsed: its text, with OPEN for what is not."""

    run: Value
    shape: str

    def __call__(self, scope: Scope) -> object:
        return self.run(scope)


def _shape(value: Value) -> str | None:
    return value.shape if isinstance(value, _Shaped) else None


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


class Expression:
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
        self.asked: list[str | None] = []
        """What is queried, arguments left open; None where it is not known."""

    def __str__(self) -> str:
        return f"{{{{{self._body}}}}}"

    def assigned(self) -> tuple[str | None, bool]:
        """The variable that the action sets, if it is such an action, and whether it is a new one."""
        if len(self._tokens) > 1 and self._tokens[0].kind == "variable" and self._tokens[1].kind == "assign":
            self._at = 2
            return self._tokens[0].text[1:], self._tokens[1].text == ":="
        return None, False

    def variables(self) -> list[str]:
        """The variables that are used, from where reading stands."""
        return [token.text[1:] for token in self._tokens[self._at :] if token.kind == "variable"]

    def whole(self) -> Value:
        """The pipeline, to the end of the action."""
        value = self._pipeline()
        if self._at < len(self._tokens):
            raise BadTemplate(f"unexpected {self._tokens[self._at].text!r} in {{{{{self._body}}}}}")
        return value

    def _pipeline(self) -> Value:
        value = self._command(None)
        while self._peek() == "pipe":
            self._at += 1
            value = self._command(value)
        return value

    def _peek(self) -> str:
        return self._tokens[self._at].kind if self._at < len(self._tokens) else ""

    def _command(self, piped: Value | None) -> Value:
        if self._peek() == "word" and self._tokens[self._at].text not in ("true", "false", "nil"):
            name = self._tokens[self._at].text
            self._at += 1
            operands = self._operands()
            return self._call(name, operands if piped is None else [*operands, piped])
        if self._peek() in ("open", "variable", "field"):
            value, method = self._method()
            if method is not None:
                operands = self._operands()
                return _called(value, method, operands if piped is None else [*operands, piped])
        operands = self._operands()
        if not operands:
            raise BadTemplate(f"missing value in {{{{{self._body}}}}}")
        if len(operands) > 1 or piped is not None:
            raise BadTemplate(f"a value cannot be called in {{{{{self._body}}}}}")
        return operands[0]

    def _method(self) -> tuple[Value, str | None]:
        """An operand that ends in a method that takes arguments (`$time.Format`), or nothing taken."""
        at, asked = self._at, len(self.asked)
        try:
            value = self._operand(last=False)
        except BadTemplate:
            value = None
        if value is not None and self._peek() == "field" and self._tokens[self._at].text == ".Format":
            self._at += 1
            return value, "Format"
        self._at = at
        del self.asked[asked:]
        return (lambda _: None), None

    def _call(self, name: str, operands: Sequence[Value]) -> Value:
        value = _call(name, operands, self._body)
        shapes = [_shape(operand) for operand in operands]
        if name == "query":
            self.asked.append(shapes[0])
        if name == "printf" and shapes[0] is not None and OPEN not in shapes[0]:
            return _Shaped(value, formatted(shapes[0]))
        if name == "print":
            return _Shaped(value, "".join(OPEN if shape is None else shape for shape in shapes))
        return value

    def _operands(self) -> list[Value]:
        found: list[Value] = []
        while self._peek() not in ("", "pipe", "close"):
            token = self._tokens[self._at]
            before = self._tokens[self._at - 1].kind if self._at else "pipe"
            if not token.spaced and before not in ("pipe", "open", "assign"):
                raise BadTemplate(f"unexpected {token.text!r} in {{{{{self._body}}}}}: a space is missing")
            found.append(self._operand())
        return found

    def _operand(self, *, last: bool = True) -> Value:
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
            dot = self._tokens[self._at].text
            if dot == "." or token.text == "." or token.kind not in ("variable", "field", "open"):
                raise BadTemplate(f"unexpected {dot!r} behind {token.text!r} in {{{{{self._body}}}}}")
            if not last and self._tokens[self._at].text == ".Format":
                break
            value = _field(value, self._tokens[self._at].text[1:])
            self._at += 1
        return value

    def _word(self, text: str) -> Value:
        if text in ("true", "false"):
            known = text == "true"
            return lambda _: known
        if text == "nil":
            return lambda _: None
        return self._call(text, [])


def _constant(token: _Token, body: str) -> Value:
    if token.kind == "string":
        text = token.text[1:-1] if token.text[0] == "`" else _unescaped(token.text[1:-1])
        return _Shaped(lambda _: text, text)
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


def _variable(name: str) -> Value:
    def value(scope: Scope) -> object:
        if not name:
            return scope.root()
        if name not in scope.variables:
            raise Failed(f"undefined variable ${name}")
        return scope.variables[name]

    return value


_ROOT = {"Labels", "Value", "ExternalLabels", "ExternalURL", "Incomplete"}


def _field(inner: Value, name: str) -> Value:
    def value(scope: Scope) -> object:
        found = inner(scope)
        if isinstance(found, Sample) and name in ("Labels", "Value"):
            return found.labels if name == "Labels" else found.value
        if isinstance(found, GoTime):
            return found.field(name)
        if not isinstance(found, dict):
            raise Failed(f"can't evaluate field {name} in {golang.plain(found)}")
        if found.keys() == _ROOT and name not in found:
            raise Failed(f"can't evaluate field {name}")
        return found.get(name, "")

    return value


def _called(value: Value, method: str, operands: Sequence[Value]) -> Value:
    """A method with its arguments; times have one."""

    def called(scope: Scope) -> object:
        found = value(scope)
        arguments = [operand(scope) for operand in operands]
        if not isinstance(found, GoTime) or len(arguments) != 1 or not isinstance(arguments[0], str):
            raise Failed(f"can't call method {method} of {golang.plain(found)[:40]}")
        return found.format(arguments[0])

    return called


# Functions.


def _call(name: str, operands: Sequence[Value], body: str) -> Value:
    if name in REFUSED:
        raise BadTemplate(f"{name!r} is not supported in templates (in {{{{{body}}}}})")
    if name in ("and", "or"):
        return _lazy(name, operands, body)
    function = FUNCTIONS.get(name)
    if function is None:
        raise BadTemplate(f"no function {name!r} (in {{{{{body}}}}})")
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


def _lazy(name: str, operands: Sequence[Value], body: str) -> Value:
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
