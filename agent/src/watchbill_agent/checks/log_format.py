"""Formats of access logs: what one line holds, and how many lines are read at a time.

    reader = compile_format("combined", Wanted(...))
    found = reader.read(chunk)          # columns of what was wanted, of all lines of the chunk

A format is written as nginx or Apache have it in their configuration. It becomes two expressions over whole chunks:
a quick one, in which every field ends at the first character of what comes next, and an exact one, which knows
quotes, escapes and users with spaces in their names. The quick one is believed when it finds as many lines as there
are: every match begins at a line's start and ends with a newline, so then each is one line. Otherwise the exact one
reads the chunk, and lines that are none of the format are counted. No field may be matched in two ways, so neither
runs for ever: a line costs what its length costs (possessive repetition, no choice that overlaps).
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

STATUS: Final = "status"
METHOD: Final = "method"
PATH: Final = "path"
DURATION: Final = "duration"
BYTES: Final = "bytes"
CLIENT: Final = "client"
FIELDS: Final = (STATUS, METHOD, PATH, DURATION, BYTES, CLIENT)
UNITS: Final = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}

NAMED: Final = {
    "common": '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent',
    "combined": '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" '
    '"$http_user_agent"',
    "combined_time": '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent '
    '"$http_referer" "$http_user_agent" $request_time',
}
"""The rest of a line is left to those without a time: much is written after it."""
JSON: Final = "json"
JSON_FIELDS: Final = {
    STATUS: "status",
    METHOD: "request_method",
    PATH: "request_uri",
    DURATION: "request_time",
    BYTES: "body_bytes_sent",
    CLIENT: "remote_addr",
}
PIECE_BYTES: Final = 16 * 1024
"""What is read anew for one line that is none of the format, or one that is hard to read."""
FORMAT_CHARACTERS_MAX: Final = 2_048

_NGINX: Final = {
    "status": STATUS,
    "request_method": METHOD,
    "request_uri": PATH,
    "uri": PATH,
    "document_uri": PATH,
    "request_time": DURATION,
    "body_bytes_sent": BYTES,
    "bytes_sent": BYTES,
    "remote_addr": CLIENT,
}
_APACHE: Final = {
    "s": STATUS,
    "m": METHOD,
    "U": PATH,
    "D": DURATION,
    "T": DURATION,
    "b": BYTES,
    "B": BYTES,
    "O": BYTES,
    "h": CLIENT,
    "a": CLIENT,
}
_REQUEST: Final = "request"

_NGINX_VARIABLE = re.compile(r"\$(?:\{(?P<braced>[a-z0-9_]+)\}|(?P<plain>[a-z0-9_]+))")
_APACHE_VARIABLE = re.compile(r"%(?P<when>[!<>0-9,]*)(?:\{(?P<about>[^}]*)\})?(?P<letter>\^?[A-Za-z%]{1,2}?)")

# No group is possessive here: Python 3.11.2, which Debian 12 has, matches those wrongly. What they would forbid to try
# again cannot be read in two ways, and a search has its bound of CPU.
_EXACT: Final = {STATUS: rb"\d{3}", BYTES: rb"(?:\d++|-)", DURATION: rb"(?:\d++(?:\.\d++)?|-)"}
_QUOTED: Final = rb'[^"\\\n]*+(?:\\[^\n][^"\\\n]*+)*'
_METHOD: Final = rb"[A-Z]{2,16}"


class WrongFormat(ValueError):
    """A format that cannot be read: what is wanted instead."""


@dataclass(slots=True)
class Columns:
    """What a chunk held: for each field that is wanted and that the format has, a value a line."""

    lines: int = 0
    unparsed: int = 0
    of: Mapping[str, Sequence[bytes]] = field(default_factory=dict)


class Reader(Protocol):
    """Reads chunks of complete lines."""

    fields: tuple[str, ...]
    """Those that are read."""
    duration_unit_s: float

    def read(self, chunk: bytes) -> Columns:
        """All lines of a chunk."""


def compile_format(
    text: str,
    wanted: Sequence[str],
    names: Mapping[str, str] | None = None,
    unit: str = "",
) -> Reader:
    """A reader of a format by name, as nginx or Apache write it, or of JSON lines. `names` says which variable or key
    holds a field, where that is another than usual. Raises WrongFormat."""
    names = names or {}
    if text == JSON:
        keys = {name: key for name, key in {**JSON_FIELDS, **names}.items() if name in wanted}
        return JsonReader(keys, UNITS[unit or "s"])
    template = NAMED.get(text, text)
    if len(template) > FORMAT_CHARACTERS_MAX:
        raise WrongFormat(f"at most {FORMAT_CHARACTERS_MAX} characters")
    parts, unit_s = _parts(template, names)
    if STATUS not in {part.field for part in parts}:
        raise WrongFormat(f"one of {', '.join((*NAMED, JSON))}, or a format with $status or %>s")
    return TextReader(parts, tuple(wanted), UNITS[unit] if unit else unit_s, text in ("common", "combined"))


# ------------------------------------------------------------ what is written in a format


@dataclass(frozen=True, slots=True)
class Part:
    """A variable of a format, and what stands between it and the next. The first part has no variable."""

    name: str
    field: str
    after: bytes
    quoted: bool = False


def _parts(template: str, names: Mapping[str, str]) -> tuple[list[Part], float]:
    apache = "$" not in template
    variables = list((_APACHE_VARIABLE if apache else _NGINX_VARIABLE).finditer(template))
    if not variables:
        raise WrongFormat(f"one of {', '.join((*NAMED, JSON))}, or a format with $variables or %directives")
    by_name = {variable: one for one, variable in names.items()}
    parts = [Part("", "", _literal(template[: variables[0].start()], apache=apache))]
    unit_s, taken = 1.0, set(names)
    for number, found in enumerate(variables):
        end = variables[number + 1].start() if number + 1 < len(variables) else len(template)
        after = _literal(template[found.end() : end], apache=apache)
        name = _apache_name(found) if apache else (found["braced"] or found["plain"])
        if name == "%":
            parts[-1] = _with_after(parts[-1], parts[-1].after + b"%" + after)
            continue
        one = by_name.get(name, "")
        if not one:
            one = (_APACHE if apache else _NGINX).get(name.partition("{")[0] if apache else name, "")
            one = "" if one in taken else one
        if one == DURATION and apache:
            unit_s = {"D": 1e-6, "T{ms}": 1e-3, "T{us}": 1e-6}.get(name, 1.0)
        if name in ("request", "r"):
            one = _REQUEST
        if apache and name == "t" and found["about"] is None:
            # Apache writes the brackets itself.
            parts[-1] = _with_after(parts[-1], parts[-1].after + b"[")
            after = b"]" + after
        taken.add(one)
        parts.append(Part(name, one, after, parts[-1].after.endswith(b'"') and after.startswith(b'"')))
    for part in parts[1:-1]:
        if not part.after:
            raise WrongFormat(f"text between {part.name} and what follows it")
    return parts, unit_s


def _with_after(part: Part, after: bytes) -> Part:
    return Part(part.name, part.field, after, part.quoted)


def _apache_name(found: re.Match[str]) -> str:
    about = found["about"]
    letter = found["letter"]
    return letter if about is None or letter not in "Tt" else f"{letter}{{{about}}}"


def _literal(text: str, *, apache: bool) -> bytes:
    if apache:
        text = text.replace('\\"', '"').replace("\\t", "\t").replace("\\\\", "\\")
    if "\n" in text:
        raise WrongFormat("a format of one line")
    return text.encode("utf-8", "surrogateescape")


# ------------------------------------------------------------ text


class TextReader:
    """Reads lines of a format."""

    def __init__(self, parts: Sequence[Part], wanted: Sequence[str], unit_s: float, rest: bool) -> None:
        has = {part.field for part in parts}
        if _REQUEST in has:
            has |= {METHOD, PATH}
        self.fields: tuple[str, ...] = tuple(name for name in FIELDS if name in has and name in wanted)
        self.duration_unit_s = unit_s
        self._groups: list[str] = []
        self._exact = re.compile(self._expression(parts, quick=False, rest=rest), re.MULTILINE)
        self._order = list(self._groups)
        self._quick = re.compile(self._expression(parts, quick=True, rest=rest), re.MULTILINE)

    def _expression(self, parts: Sequence[Part], *, quick: bool, rest: bool) -> bytes:
        self._groups = []
        text = b"^" + re.escape(parts[0].after)
        left = list(parts[1:])
        while left:
            skipped = self._skipped(left) if quick else 0
            if skipped:
                # What nobody wants to know, up to the next quote, in one stride: several times as fast.
                text += b'[^"]*+"' + re.escape(left[skipped - 1].after.partition(b'"')[2])
                del left[:skipped]
                continue
            part = left.pop(0)
            text += self._variable(part, quick=quick) + re.escape(part.after)
        if rest:
            text += rb"(?: [^\n]*+)?"
        return text + b"\n"

    def _skipped(self, parts: Sequence[Part]) -> int:
        """How many variables nobody wants to know come before the next quote; 0 where one is wanted first."""
        for number, part in enumerate(parts, 1):
            wanted = {METHOD, PATH} if part.field == _REQUEST else {part.field}
            if wanted & set(self.fields):
                return 0
            if b'"' in part.after:
                return number
        return 0

    def _variable(self, part: Part, *, quick: bool) -> bytes:
        if part.field == _REQUEST and (METHOD in self.fields or PATH in self.fields):
            method = self._group(METHOD, _METHOD) if METHOD in self.fields else _METHOD
            stop = rb'[^ "?]' if quick else rb'[^ "?\\\n]'
            path = b" " + self._group(PATH, stop + b"*+") if PATH in self.fields else b" "
            start = b"(?:" + method + path + b")?"
            return start + _any(part, quick=quick)
        matched = _EXACT.get(part.field) or _any(part, quick=quick)
        return self._group(part.field, matched) if part.field in self.fields else matched

    def _group(self, name: str, matched: bytes) -> bytes:
        if name in self._groups:
            return matched
        self._groups.append(name)
        return b"(" + matched + b")"

    def read(self, chunk: bytes) -> Columns:
        """All lines of a chunk."""
        lines = chunk.count(b"\n")
        found = self._quick.findall(chunk)
        if len(found) != lines:
            found = self._in_pieces(chunk)
        if len(self._order) == 1:
            return Columns(lines, lines - len(found), {self._order[0]: found})
        columns = zip(*found, strict=True) if found else [()] * len(self._order)
        return Columns(lines, lines - len(found), dict(zip(self._order, columns, strict=True)))

    def _in_pieces(self, chunk: bytes) -> list[Any]:
        """The quick one again, for the pieces that have no line which only the exact one can read."""
        found: list[Any] = []
        at = 0
        while at < len(chunk):
            end = chunk.find(b"\n", min(at + PIECE_BYTES, len(chunk) - 1)) + 1
            piece = chunk[at:end]
            rows = self._quick.findall(piece)
            found += rows if len(rows) == piece.count(b"\n") else self._exact.findall(piece)
            at = end
        return found


def _any(part: Part, *, quick: bool) -> bytes:
    """What any variable may hold, up to the first place at which the text after it stands."""
    if not part.after:
        return rb"[^\n]*+"
    first, more = re.escape(part.after[:1]), re.escape(part.after[1:])
    if quick:
        return b"[^" + first + b"]*+"
    if part.quoted:
        return _QUOTED
    run = b"[^" + first + rb"\n]*+"
    return run + b"(?:" + first + b"(?!" + more + b")" + run + b")*" if more else run


# ------------------------------------------------------------ JSON


class JsonReader:
    """Reads a JSON object a line. A key with dots looks into objects within it where it is no key itself."""

    def __init__(self, keys: Mapping[str, str], unit_s: float) -> None:
        self.fields: tuple[str, ...] = tuple(name for name in FIELDS if name in keys)
        self.duration_unit_s = unit_s
        self._lookups = [_lookup(keys[name]) for name in self.fields]
        few = set(self.fields) <= {STATUS, DURATION}
        self._quick = [_key(name, keys[name]) for name in self.fields] if few else []

    def read(self, chunk: bytes) -> Columns:
        """All lines of a chunk. A line without a status is none of the format."""
        if self._quick and (few := self._few(chunk)) is not None:
            return few
        texts = [line for line in chunk.decode("utf-8", "replace").split("\n") if line]
        found = _objects(texts)
        good = [one for one in found if isinstance(one, dict)]
        columns = {
            name: [_bytes(look(one)) for one in good]
            for name, look in zip(self.fields, self._lookups, strict=True)
        }
        right = [number for number, code in enumerate(columns[STATUS]) if len(code) == 3 and code.isdigit()]
        if len(right) != len(good):
            columns = {name: [values[number] for number in right] for name, values in columns.items()}
        lines = chunk.count(b"\n")
        return Columns(lines, lines - len(right), columns)

    def _few(self, chunk: bytes) -> Columns | None:
        """Numbers by their keys, without parsing: believed when every line is one object without another in it, and
        every key is there as often as lines are. No text of a stranger can hold a key: its quotes are escaped."""
        lines = chunk.count(b"\n")
        if chunk.count(b"}\n") != lines or chunk.count(b"{") != lines:
            return None
        columns = {}
        for name, (key, compiled) in zip(self.fields, self._quick, strict=True):
            values = compiled.findall(chunk)
            if len(values) != lines or chunk.count(key) != lines:
                return None
            columns[name] = values
        return Columns(lines, 0, columns)


def _key(name: str, key: str) -> tuple[bytes, "re.Pattern[bytes]"]:
    text = json.dumps(key).encode() + b":"
    value = rb"(\d{3})\b" if name == STATUS else rb"(\d++(?:\.\d++)?)"
    return text, re.compile(re.escape(text) + b' ?"?' + value + b'"?[,} ]')


def _objects(texts: Sequence[str]) -> list[Any]:
    try:
        together = json.loads(f"[{','.join(texts)}]")
    except (ValueError, RecursionError):
        together = []
    return together if len(together) == len(texts) else [_object(text) for text in texts]


def _object(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _lookup(key: str) -> Callable[[dict[str, Any]], object]:
    steps = key.split(".")

    def look(one: dict[str, Any]) -> object:
        found: Any = one.get(key)
        if found is None and len(steps) > 1:
            found = one
            for step in steps:
                found = found.get(step) if isinstance(found, dict) else None
        return found

    return look


def _bytes(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    return b"%d" % value if isinstance(value, int) else b"" if value is None else repr(value).encode()
