"""Text to an expression's tree: by descent, bounded in length, depth and nodes, with the place of what is wrong.

From loose to tight: `or`, `and`, `not`, one comparison, `+ -`, `* /`, a minus, and `.name` and `[...]`. Nothing here is
Python, and nothing of it is handed to Python.
"""

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final, NoReturn

from watchbill.config import ByteSize, Duration, NotWanted
from watchbill_collector.runbooks.expression import (
    DEPTH_MAX,
    EXPRESSION_CHARACTERS_MAX,
    NODES_MAX,
    Expression,
)
from watchbill_collector.runbooks.expression_tree import (
    All,
    Ask,
    Chain,
    Compare,
    Field,
    Index,
    Literal,
    Minus,
    Name,
    Node,
    Not,
    Path,
    Some,
    parts,
)

FUNCTIONS: Final = {
    "metric": ("host", "name"),
    "alert": ("name", "host"),
    "backup": ("job",),
    "host": ("name",),
}
"""What may be asked, and with which arguments."""
KEYWORDS: Final = frozenset({"and", "or", "not", "true", "false"})
NUMBER_CHARACTERS_MAX: Final = 30

_TOKEN: Final = re.compile(
    r"""(?P<space>[ \t\r\n]+)|(?P<number>[0-9][0-9A-Za-z.]*)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"""
    r"""|(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|(?P<sign>==|!=|<=|>=|[-<>+*/().,\[\]])""",
    re.ASCII,
)
_PLAIN: Final = re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})?", re.ASCII)
_COMPARISONS: Final = frozenset({"==", "!=", "<", "<=", ">", ">="})
_ESCAPE: Final = re.compile(r"\\(.)")
_ESCAPES: Final = {"\\": "\\", '"': '"', "'": "'", "n": "\n", "t": "\t"}
_OTHERS_SPELLING: Final = {
    "=": '"=="',
    "&": '"and"',
    "|": '"or"',
    "!": '"not"',
    "%": 'a number, such as "0.5" for half',
}


class BadExpression(ValueError):
    """What stands there is no expression. `line` and `column` count from 1, in the expression's own text."""

    def __init__(self, line: int, column: int, got: str, wanted: str) -> None:
        super().__init__(f"{line}:{column}: got {got}, wanted {wanted}")
        self.line = line
        self.column = column
        self.got = got
        self.wanted = wanted


def parse(text: str, line: int = 0) -> Expression:
    """An expression; `line` is where it stands in its file. Raises BadExpression."""
    tree = _Parser(text).whole()
    inside = list(parts(tree))
    return Expression(
        text=text,
        tree=tree,
        names=frozenset(one.name for one in inside if isinstance(one, Name)),
        calls=frozenset(one.function for one in inside if isinstance(one, Ask)),
        line=line,
    )


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        if len(text) > EXPRESSION_CHARACTERS_MAX:
            self._bad(0, f"{len(text)} characters", f"at most {EXPRESSION_CHARACTERS_MAX}")
        self._tokens = self._split()
        self._next = 0
        self._depth = 0
        self._nodes = 0

    def whole(self) -> Node:
        """The tree of all of the text."""
        found = self._either()
        if self._token.kind != "end":
            self._unexpected('an operator such as "and" or "==", or the end')
        return found

    # From loose to tight.

    def _either(self) -> Node:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            self._bad(self._token.at, "deeper nesting", f"at most {DEPTH_MAX} levels")
        found = [self._both()]
        while self._take("or"):
            found.append(self._both())
        self._depth -= 1
        return found[0] if len(found) == 1 else self._made(Some(tuple(found)))

    def _both(self) -> Node:
        found = [self._negated()]
        while self._take("and"):
            found.append(self._negated())
        return found[0] if len(found) == 1 else self._made(All(tuple(found)))

    def _negated(self) -> Node:
        times = 0
        while self._take("not"):
            times += 1
        self._deepen(times)
        found = self._compared()
        for _ in range(times):
            found = self._made(Not(found))
        self._depth -= times
        return found

    def _compared(self) -> Node:
        left = self._sum()
        if self._token.text not in _COMPARISONS or self._token.kind != "sign":
            return left
        operator = self._advance().text
        right = self._sum()
        if self._token.text in _COMPARISONS and self._token.kind == "sign":
            self._unexpected('"and" between two comparisons')
        return self._made(Compare(operator, left, right))

    def _sum(self) -> Node:
        first = self._product()
        rest: list[tuple[str, Node]] = []
        while self._token.text in ("+", "-") and self._token.kind == "sign":
            rest.append((self._advance().text, self._product()))
        return self._made(Chain(first, tuple(rest))) if rest else first

    def _product(self) -> Node:
        first = self._signed()
        rest: list[tuple[str, Node]] = []
        while self._token.text in ("*", "/") and self._token.kind == "sign":
            rest.append((self._advance().text, self._signed()))
        return self._made(Chain(first, tuple(rest))) if rest else first

    def _signed(self) -> Node:
        times = 0
        while self._take("-"):
            times += 1
        self._deepen(times)
        found = self._part()
        for _ in range(times):
            found = self._made(Minus(found))
        self._depth -= times
        return found

    def _part(self) -> Node:
        base = self._atom()
        steps: list[Field | Index] = []
        if isinstance(base, Path):
            # It stood in parentheses, which say nothing here.
            steps = list(base.steps)
            base = base.base
        while True:
            if self._take("."):
                if self._token.kind != "name":
                    self._unexpected("a name after the dot")
                steps.append(Field(self._advance().text))
            elif self._take("["):
                steps.append(Index(self._either()))
                self._must("]")
            else:
                break
            self._count()
        return self._made(Path(base, tuple(steps))) if steps else base

    def _atom(self) -> Node:
        token = self._token
        if token.kind == "number":
            self._advance()
            return self._made(self._number(token))
        if token.kind == "string":
            self._advance()
            return self._made(Literal(self._string(token)))
        if self._take("("):
            found = self._either()
            self._must(")")
            return found
        if token.kind != "name" or token.text in KEYWORDS - {"true", "false"}:
            self._unexpected("a name, a number, a text in quotes or a parenthesis")
        self._advance()
        if token.text in ("true", "false"):
            return self._made(Literal(token.text == "true"))
        if self._token.text == "(" and self._token.kind == "sign":
            return self._ask(token)
        return self._made(Name(token.text))

    def _ask(self, name: _Token) -> Node:
        wanted = FUNCTIONS.get(name.text)
        if wanted is None:
            close = get_close_matches(name.text, FUNCTIONS, 1)
            self._bad(
                name.at,
                f"the function {name.text}",
                f"{close[0]}?" if close else "one of " + ", ".join(FUNCTIONS),
            )
        self._must("(")
        arguments: list[Node] = []
        while not self._take(")"):
            if arguments:
                self._must(",")
            arguments.append(self._either())
        if len(arguments) != len(wanted):
            self._bad(name.at, f"{len(arguments)} arguments", f"{name.text}({', '.join(wanted)})")
        return self._made(Ask(name.text, tuple(arguments)))

    # Tokens and their values.

    def _number(self, token: _Token) -> Literal:
        text = token.text
        if len(text) <= NUMBER_CHARACTERS_MAX:
            if _PLAIN.fullmatch(text):
                return Literal(float(text) if "." in text else int(text), text)
            for unit in (Duration, ByteSize):
                try:
                    value = unit.from_config(text)
                except (NotWanted, OverflowError):
                    continue
                return Literal(int(value) if value == int(value) else float(value), text)
        wanted = 'a number, a duration such as "5m" or a size such as "16MiB"'
        return self._bad(token.at, self._shown(text), wanted)

    def _string(self, token: _Token) -> str:
        def escape(found: re.Match[str]) -> str:
            if found[1] not in _ESCAPES:
                self._bad(token.at, f"\\{found[1]}", "one of \\\\ \\\" \\' \\n \\t in a text")
            return _ESCAPES[found[1]]

        return _ESCAPE.sub(escape, token.text[1:-1])

    def _split(self) -> list[_Token]:
        found: list[_Token] = []
        at = 0
        while at < len(self._text):
            match = _TOKEN.match(self._text, at)
            if match is None or match.lastgroup is None:
                character = self._text[at]
                wanted = _OTHERS_SPELLING.get(character, "names, numbers, texts in quotes and operators")
                if character in "\"'":
                    wanted = "a text that ends on the line it began"
                self._bad(at, self._shown(self._text[at : at + 20]), wanted)
            if match.lastgroup != "space":
                found.append(_Token(match.lastgroup, match.group(), at))
            at = match.end()
        return [*found, _Token("end", "", len(self._text))]

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _advance(self) -> _Token:
        token = self._token
        self._next += 1
        return token

    def _take(self, text: str) -> bool:
        if self._token.text != text or self._token.kind not in ("sign", "name"):
            return False
        self._next += 1
        return True

    def _must(self, text: str) -> None:
        if not self._take(text):
            self._unexpected(f'"{text}"')

    def _made(self, node: Node) -> Node:
        self._count()
        return node

    def _count(self) -> None:
        self._nodes += 1
        if self._nodes > NODES_MAX:
            self._bad(self._token.at, f"more than {NODES_MAX} parts", "a shorter expression")

    def _deepen(self, levels: int) -> None:
        self._depth += levels
        if self._depth > DEPTH_MAX:
            self._bad(self._token.at, "deeper nesting", f"at most {DEPTH_MAX} levels")

    def _unexpected(self, wanted: str) -> NoReturn:
        token = self._token
        self._bad(token.at, self._shown(token.text) if token.kind != "end" else "the end", wanted)

    def _bad(self, at: int, got: str, wanted: str) -> NoReturn:
        before = self._text[:at]
        raise BadExpression(before.count("\n") + 1, at - (before.rfind("\n") + 1) + 1, got, wanted)

    @staticmethod
    def _shown(text: str) -> str:
        return ascii(text[:40])
