"""String literals: what stands between quotes, by Go's rules, which are PromQL's.

The parser never sees what a string says. It reads escapes in raw strings, knows regular expressions by another
engine's rules, and makes one character of each escaped byte. So the lexer gives it a *place* for every distinct
string, two private characters around a number, and the converter puts the strings back.
"""

import re

from watchbill_collector.matching import InvalidRegex, Matcher, MatchOp
from watchbill_collector.promql.errors import BadQuery
from watchbill_collector.promql.text import BAD_BYTES, quoted

_OPEN, _CLOSE = "\ue000", "\ue001"
_PLACE = re.compile(f"{_OPEN}([0-9]+){_CLOSE}\\|?")
_ESCAPE = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|([0-7]{3})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.)|\Z)", re.DOTALL
)
_PLAIN = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\"}
_CODE_POINT_MAX = 0x10FFFF
_SURROGATE = re.compile("[\ud800-\udfff]")


class Places:
    """The strings of one expression."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def put(self, literal: str, *, regex: bool = False) -> str:
        """The literal that the parser gets instead; raises BadQuery.

        Whether a matcher takes the empty string is all that the parser has to know of it, so that stays true.
        """
        text = unquoted(literal)
        if not text:
            return '""'
        if text not in self._texts:
            self._texts.append(text)
        empty = "|" if regex and _takes_nothing(text) else ""
        return f'"{_OPEN}{self._texts.index(text)}{_CLOSE}{empty}"'

    def text(self, place: str) -> str:
        """The string of a place; whatever else a name is, it is itself."""
        found = _PLACE.fullmatch(place)
        return place if found is None else self._texts[int(found[1])]

    def named(self, message: str) -> str:
        """A message of the parser with the strings in their places, quoted."""
        message = re.sub(f"'({_OPEN}[0-9]+{_CLOSE}\\|?)'", r"\1", message)
        return _PLACE.sub(lambda found: quoted(self._texts[int(found[1])]), message)


def _takes_nothing(regex: str) -> bool:
    try:
        return Matcher("", MatchOp.REGEX, regex).matches("")
    except InvalidRegex as error:
        raise BadQuery(f"parse error: {error}", regex) from None


def unquoted(literal: str) -> str:
    """What a string literal says; raises BadQuery. Bytes that are no UTF-8 become BAD_BYTES characters."""
    quote, body = literal[0], literal[1:-1]
    if _SURROGATE.search(body):
        # Nothing that was sent as bytes: half a character, which a program put into JSON as an escape.
        raise BadQuery("parse error: invalid UTF-8 rune")
    if quote == "`" or "\\" not in body:
        return body
    out = bytearray()
    position = 0
    for escape in _ESCAPE.finditer(body):
        out += body[position : escape.start()].encode()
        out += _meant(escape, quote)
        position = escape.end()
    out += body[position:].encode()
    return "".join(
        chr(ord(char) - 0xDC80 + BAD_BYTES) if 0xDC80 <= ord(char) < 0xDD00 else char
        for char in out.decode("utf-8", "surrogateescape")
    )


def _meant(escape: re.Match[str], quote: str) -> bytes:
    """The bytes of one escape."""
    byte, octal, short, long, plain = escape.groups()
    if byte:
        return bytes([int(byte, 16)])
    if octal and int(octal, 8) <= 0xFF:
        return bytes([int(octal, 8)])
    if short or long:
        code = int(short or long, 16)
        if code <= _CODE_POINT_MAX and not 0xD800 <= code <= 0xDFFF:
            return chr(code).encode()
    if plain in _PLAIN:
        return _PLAIN[plain].encode()
    if plain == quote:
        return plain.encode()
    raise BadQuery(f"parse error: unknown escape sequence {escape.group()!r} in a string")
