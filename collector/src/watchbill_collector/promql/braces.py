"""The matchers of a selector that the parser refused: where they go wrong.

Prometheus reads what stands in braces by rules of their own, and so do we: words there are always names, and whatever
else is no operator, string, comma or brace is an unexpected character.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from watchbill_collector.labels import METRIC_NAME
from watchbill_collector.matching import InvalidRegex, Matcher, MatchOp
from watchbill_collector.promql.errors import BadQuery
from watchbill_collector.promql.kinds import Fault
from watchbill_collector.promql.lexer import Token
from watchbill_collector.promql.literals import unquoted

_QUOTES: Final = "\"'`"
_KINDS: Final = {"word": "identifier ", "number": "number ", "duration": "duration "}


class Found(Exception):
    """The answer: what is wrong, and where."""

    def __init__(self, at: int, words: str) -> None:
        super().__init__(at, words)
        self.fault = Fault(at, words)


@dataclass(frozen=True, slots=True)
class _Item:
    """What stands in braces: a name, a string, an operator, a comma, or the end. `tokens` long."""

    kind: str
    text: str
    at: int
    tokens: int = 1


def shown(token: Token) -> str:
    """A token as errors name it."""
    return token.text if token.kind == "string" else f'{_KINDS.get(token.kind, "")}"{token.text}"'


def meant(text: str, at: int) -> str:
    """What a string says, or a word. Raises Found."""
    if text[0] not in _QUOTES:
        return text
    try:
        return unquoted(text)
    except BadQuery as error:
        raise Found(at, str(error).removeprefix("parse error: ")) from None


def unfinished(token: Token) -> str:
    """What is wrong with a quote that no other follows; empty for any other token."""
    if token.kind != "other" or token.text not in _QUOTES:
        return ""
    return "unterminated raw string" if token.text == "`" else "unterminated quoted string"


class Braces:
    """Reads from an opening brace to behind the closing one. `number` is the next token; `matchers` are what stood
    there."""

    def __init__(self, tokens: Sequence[Token], number: int, end: int) -> None:
        """`end` is how many characters the text has."""
        self._tokens = tokens
        self._end = end
        self._colon_at: int | None = None
        self._metric = ""
        self.number = number + 1
        self.matchers: list[Matcher] = []

    def read(self) -> None:
        """Raises Found."""
        while self._item().text != "}":
            self._matcher()
            item = self._item()
            if item.text == ",":
                self._take(item)
            elif item.text != "}":
                raise self._unexpected(item, '"," or "}"')
        self.number += 1

    def _matcher(self) -> None:
        name = self._item()
        if name.kind not in ("name", "string"):
            raise self._unexpected(name, 'identifier or "}"')
        self._take(name)
        operator = self._item()
        if name.kind == "string" and operator.text in (",", "}"):
            if self._metric:
                words = f"metric name must not be set twice: {self._metric} or {name.text}"
                raise Found(name.at, words)
            self._metric = name.text
            self.matchers.append(Matcher(METRIC_NAME, MatchOp.EQUAL, meant(name.text, name.at)))
            return
        if operator.kind != "operator":
            raise self._unexpected(operator, "label matching operator")
        self._take(operator)
        value = self._item()
        if value.kind != "string":
            raise self._unexpected(value, "string")
        self._take(value)
        matcher = Matcher(meant(name.text, name.at), MatchOp(operator.text), meant(value.text, value.at))
        try:
            matcher.check()
        except InvalidRegex as error:
            raise Found(name.at, str(error)) from None
        self.matchers.append(matcher)

    def _take(self, item: _Item) -> None:
        token = self._tokens[self.number]
        if item.kind == "name" and item.text != token.text:
            self._colon_at = token.at + len(item.text)
        self.number += item.tokens

    def _unexpected(self, item: _Item, wanted: str) -> Found:
        shown_ = item.text if item.kind == "string" else f'"{item.text}"'
        what = f"identifier {shown_}" if item.kind == "name" else shown_
        return Found(item.at, f"unexpected {what} in label matching, expected {wanted}")

    def _item(self) -> _Item:
        """What comes next; raises Found for what no item begins with."""
        if self._colon_at is not None:
            raise Found(self._colon_at, "unexpected character inside braces: ':'")
        if self.number >= len(self._tokens):
            raise Found(self._end, "unexpected end of input inside braces")
        token = self._tokens[self.number]
        if token.kind == "string":
            return _Item("string", token.text, token.at)
        if token.kind == "word":
            return self._name(token)
        if words := unfinished(token):
            raise Found(token.at, words)
        if token.text in (",", "}"):
            return _Item("mark", token.text, token.at)
        if token.text in ("=", "!"):
            return self._operator(token)
        if token.text == "{":
            raise Found(token.at, "unexpected left brace '{'")
        raise Found(token.at, f"unexpected character inside braces: {token.text[0]!r}")

    def _name(self, token: Token) -> _Item:
        """A word up to its first colon, which may stand in names of metrics alone."""
        name = token.text.partition(":")[0]
        if not name:
            raise Found(token.at, "unexpected character inside braces: ':'")
        return _Item("name", name, token.at)

    def _operator(self, token: Token) -> _Item:
        behind = self._tokens[self.number + 1] if self.number + 1 < len(self._tokens) else None
        follows = "" if behind is None else behind.text[0] if behind.at == token.at + 1 else " "
        close = follows if follows in ("~", "=") else ""
        if close and token.text + close != "==":
            return _Item("operator", token.text + close, token.at, tokens=2)
        if token.text == "=":
            return _Item("operator", "=", token.at)
        what = f"unexpected character after '!' inside braces: {follows!r}" if follows else ""
        raise Found(token.at, what or "unexpected end of input after '!' inside braces")
