"""TOML values to typed ones, every mistake noted with the line it is in."""

import dataclasses
import math
import re
import tomllib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from watchbill.config.lines import KeyPath, show_path
from watchbill.config.spec import Option, Wrong, key_of, option_of
from watchbill.config.units import FromConfig, NotWanted
from watchbill.errors import ConfigError, Problem

T = TypeVar("T")

SHOWN_CHARACTERS_MAX = 80
"""How much of a wrong value an error repeats."""
_INSIDE = re.compile(r"[^][.]+")
PROBLEMS_MAX = 200
"""How many problems one load reports; the rest is a count."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was written: the file, the 1-based line, and the key as that file spells it."""

    file: str
    line: int
    key: str


Origins = dict[KeyPath, Origin]


class EnvText(str):
    """A value from the environment: text that becomes whatever its key wants."""

    __slots__ = ()


class Bad(Enum):
    """The type of BAD."""

    BAD = "bad"


BAD = Bad.BAD
"""In place of a value that was wrong; its problem has been noted."""


class Table:
    """A table whose keys somebody else knows: a plug-in's options, `read` once the plug-in is found."""

    __slots__ = ("_origins", "path", "values")

    def __init__(
        self, values: Mapping[str, object], path: KeyPath = (), origins: Origins | None = None
    ) -> None:
        self.values = dict(values)
        self.path = path
        self._origins: Origins = origins if origins is not None else {}

    def read(self, spec: type[T], skip: Iterable[str] = ()) -> T:
        """The table as `spec`; keys in `skip` were read elsewhere (such as `kind`). Raises ConfigError."""
        reader = Reader(self._origins)
        skipped = set(skip)
        values = {key: value for key, value in self.values.items() if key not in skipped}
        made = reader.table(spec, values, self.path)
        reader.raise_problems()
        return typing.cast("T", made)

    def problem(self, key: str, got: str, wanted: str) -> Problem:
        """A problem with one of this table's keys, at the right line; key "" is the table itself, and what is inside
        is named as in `hosts[2]` or `rules[0].match`."""
        inside = [int(word) if word.isdigit() else word for word in _INSIDE.findall(key)]
        return Reader(self._origins).locate((*self.path, *inside), got, wanted)

    def over(self, below: "Table") -> "Table":
        """This table, and beyond it what `below` says; a mistake is told where it was written."""
        origins = dict(self._origins)
        deep = len(below.path)
        for path, origin in below._origins.items():  # noqa: SLF001 - Another table of ours.
            if len(path) > deep and path[:deep] == below.path and path[deep] not in self.values:
                origins[(*self.path, *path[deep:])] = origin
        return Table({**below.values, **self.values}, self.path, origins)

    def inside(self, key: str) -> "Table":
        """A table that nobody wrote: an empty one under `key`."""
        return Table({}, (*self.path, key), self._origins)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and self.values == other.values

    def __hash__(self) -> int:
        return hash(self.path)

    def __repr__(self) -> str:
        return f"Table({show_path(self.path)}: {self.values!r})"


class Reader:
    """Turns one merged document into a spec, collecting problems."""

    def __init__(self, origins: Origins) -> None:
        self._origins = origins
        self._problems: list[Problem] = []

    def raise_problems(self, before: Iterable[Problem] = ()) -> None:
        """Raise ConfigError with everything noted, if there is anything. `before` come first."""
        problems = [*before, *self._problems]
        if len(problems) > PROBLEMS_MAX:
            more = len(problems) - PROBLEMS_MAX
            last = problems[PROBLEMS_MAX - 1]
            problems = [*problems[:PROBLEMS_MAX], Problem(last.file, 0, "", f"{more} more problems", "none")]
        if problems:
            raise ConfigError(problems)

    def locate(self, path: KeyPath, got: str, wanted: str) -> Problem:
        """A problem at the line of `path`, or of the nearest table around it that was written somewhere."""
        known = path
        while known and known not in self._origins:
            known = known[:-1]
        origin = self._origins.get(known, Origin("", 0, ""))
        key = show_path(path)
        if origin.key:  # Of several files each counts its own tables.
            inside = show_path(path[len(known) :])
            key = origin.key + ("." if inside and not inside.startswith("[") else "") + inside
        return Problem(origin.file, origin.line, key, got, wanted)

    def table(self, spec: type, values: Mapping[str, object], path: KeyPath) -> object:
        """`values` as an instance of the dataclass `spec`, or BAD."""
        fields = {key_of(field): field for field in dataclasses.fields(spec) if field.init}
        rest = next((field for field in fields.values() if option_of(field).rest), None)
        if rest is not None:
            del fields[key_of(rest)]
        hints = typing.get_type_hints(spec)
        made: dict[str, object] = {}
        others: dict[str, Table] = {}
        right = True
        for key, value in values.items():
            field = fields.get(key)
            if field is not None:
                read = self._value(hints[field.name], value, (*path, key), option_of(field))
                made[field.name] = read
                right = right and read is not BAD
            elif rest is not None and isinstance(value, dict):
                others[key] = Table(value, (*path, key), self._origins)
            else:
                self._unknown(path, key, [*fields], value, tables_too=rest is not None)
                right = False
        if rest is not None:
            made[rest.name] = others
        for key, field in fields.items():
            if field.name not in made and _required(field):
                self._note((*path, key), "nothing", wanted_of(hints[field.name], option_of(field)))
                right = False
        return self._checked(spec(**made), path) if right else BAD

    def _checked(self, made: object, path: KeyPath) -> object:
        check: Callable[[], Iterable[Wrong | Problem]] | None = getattr(made, "check", None)
        found = list(check()) if check is not None else []
        for wrong in found:
            if isinstance(wrong, Problem):
                self._problems.append(wrong)
            else:
                self._note((*path, *_below(wrong)), wrong.got, wrong.wanted)
        return BAD if found else made

    def _unknown(self, path: KeyPath, key: str, known: list[str], value: object, *, tables_too: bool) -> None:
        import difflib

        # Comparing is slow, and nobody reads the thousandth suggestion.
        few = len(self._problems) < PROBLEMS_MAX
        near = difflib.get_close_matches(key[:64], known, n=1) if few else []
        if near:
            wanted = f"a known key (did you mean {near[0]}?)"
        elif tables_too:
            others = f", or one of: {', '.join(sorted(known))}" if known else ""
            wanted = f"a table [{show_path((*path, key))}]{others}"
        else:
            wanted = f"one of: {', '.join(sorted(known))}" if known else "no key at all here"
        got = show_value(value) if tables_too and not near else "an unknown key"
        self._note((*path, key), got, wanted)

    def _note(self, path: KeyPath, got: str, wanted: str) -> None:
        self._problems.append(self.locate(path, got, wanted))

    def _value(self, hint: object, value: object, path: KeyPath, notes: Option) -> object:
        value = _from_environment(hint, value)
        try:
            return self._converted(hint, value, path, notes)
        except NotWanted as exc:
            self._note(path, show_value(value), str(exc))
        except _Wrongs as exc:
            for wrong in exc.wrongs:
                self._note((*path, *_below(wrong)), wrong.got, wrong.wanted)
        return BAD

    def _converted(self, hint: object, value: object, path: KeyPath, notes: Option) -> object:
        origin = typing.get_origin(hint)
        if origin in (Union, types.UnionType):
            return self._converted(_not_none(hint), value, path, notes)
        if origin in (list, tuple, frozenset):
            return self._array(hint, value, path, notes)
        if origin is dict:
            return self._dictionary(hint, value, path, notes)
        if isinstance(hint, type) and dataclasses.is_dataclass(hint) and not issubclass(hint, FromConfig):
            shorthand = getattr(hint, "shorthand", "")
            if shorthand and isinstance(value, str):
                value = {shorthand: value}  # `mqtt = "..."` for a table that has little more to say.
            return self.table(hint, value, path) if isinstance(value, dict) else _refuse(hint, notes)
        if hint is Table:
            return Table(value, path, self._origins) if isinstance(value, dict) else _refuse(hint, notes)
        return _bounded(_scalar(hint, value, notes), hint, notes)

    def _array(self, hint: object, value: object, path: KeyPath, notes: Option) -> object:
        if not isinstance(value, list):
            _refuse(hint, notes)
        _check_length(value, hint, notes)
        element = typing.get_args(hint)[0]
        read = [self._value(element, item, (*path, index), _inner(notes)) for index, item in enumerate(value)]
        if BAD in read:
            return BAD
        kind: Callable[[list[object]], object] = typing.get_origin(hint) or list
        return _judged(kind(read), notes)

    def _dictionary(self, hint: object, value: object, path: KeyPath, notes: Option) -> object:
        if not isinstance(value, dict):
            _refuse(hint, notes)
        _check_length(value, hint, notes)
        element = typing.get_args(hint)[1]
        read = {key: self._value(element, item, (*path, key), _inner(notes)) for key, item in value.items()}
        return BAD if BAD in read.values() else _judged(read, notes)


def _inner(notes: Option) -> Option:
    """What holds for the elements of an array: the bounds, not the length or the check of the whole."""
    return Option(at_least=notes.at_least, at_most=notes.at_most)


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _not_none(hint: object) -> object:
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    assert len(kinds) == 1, f"a configuration field may be one type or absent, not {hint}"
    return kinds[0]


def _from_environment(hint: object, value: object) -> object:
    """Text from the environment, as a TOML value where its key wants anything but text."""
    if not isinstance(value, EnvText):
        return value
    if typing.get_origin(hint) in (Union, types.UnionType):
        hint = _not_none(hint)
    wants_text = hint in (str, Path) or typing.get_origin(hint) is Literal
    wants_text = wants_text or (isinstance(hint, type) and issubclass(hint, (FromConfig, Enum)))
    if wants_text:
        return str(value)
    try:
        return tomllib.loads(f"value = {value}\n")["value"]
    except (ValueError, KeyError, RecursionError):
        return str(value)


def _refuse(hint: object, notes: Option) -> typing.NoReturn:
    raise NotWanted(wanted_of(hint, notes))


def _scalar(hint: object, value: object, notes: Option) -> object:
    if typing.get_origin(hint) is Literal:
        # 1 == True == 1.0 in Python, but not in a configuration file.
        same = [choice for choice in typing.get_args(hint) if choice == value and type(choice) is type(value)]
        return same[0] if same else _refuse(hint, notes)
    if hint is bool or hint is str:
        return value if isinstance(value, hint) else _refuse(hint, notes)
    if hint is int:
        return value if isinstance(value, int) and not isinstance(value, bool) else _refuse(hint, notes)
    if hint is float:
        return _float(value, notes)
    if hint is Path:
        return _path(value, notes)
    if hint is object:
        return value
    assert isinstance(hint, type), f"no configuration file can hold {hint}"
    if issubclass(hint, Enum):
        same_member = [member for member in hint if member.value == value]
        return same_member[0] if same_member else _refuse(hint, notes)
    assert issubclass(hint, FromConfig), f"no configuration file can hold {hint}"
    try:
        return hint.from_config(value)
    except NotWanted as exc:
        raise NotWanted(f"{exc}{_bound_words(hint, notes)}") from None


def _float(value: object, notes: Option) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        _refuse(float, notes)
    try:
        number = float(value)
    except OverflowError:
        _refuse(float, notes)
    return number if math.isfinite(number) else _refuse(float, notes)


def _path(value: object, notes: Option) -> Path:
    # Relative to what? A daemon's working directory is nobody's decision.
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        _refuse(Path, notes)
    return Path(value)


def _bounded(value: object, hint: object, notes: Option) -> object:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        low = notes.at_least is not None and value < notes.at_least
        high = notes.at_most is not None and value > notes.at_most
        if low or high:
            _refuse(hint, notes)
    if isinstance(value, str):
        _check_length(value, hint, notes)
    return _judged(value, notes)


def _check_length(value: str | list[object] | dict[str, object], hint: object, notes: Option) -> None:
    if notes.length_max is not None and len(value) > notes.length_max:
        _refuse(hint, notes)


def _judged(value: object, notes: Option) -> object:
    found = notes.check(value) if notes.check is not None else None
    if isinstance(found, str):
        raise NotWanted(found)
    wrongs = list(found or ())
    if wrongs:
        raise _Wrongs(wrongs)
    return value


class _Wrongs(ValueError):
    def __init__(self, wrongs: list[Wrong]) -> None:
        super().__init__(wrongs)
        self.wrongs = wrongs


def _below(wrong: Wrong) -> tuple[str | int, ...]:
    if isinstance(wrong.key, tuple):
        return wrong.key
    return tuple(wrong.key.split(".")) if wrong.key else ()


def wanted_of(hint: object, notes: Option) -> str:
    """What a key wants, in words: for errors and for the reference."""
    return _kind_words(hint, notes) + _bound_words(hint, notes)


def _kind_words(hint: object, notes: Option) -> str:
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return _kind_words(_not_none(hint), notes)
    if origin is Literal:
        return "one of: " + ", ".join(show_value(choice) for choice in typing.get_args(hint))
    if origin in (list, tuple, frozenset):
        element = typing.get_args(hint)[0]
        if element is Table or dataclasses.is_dataclass(element):
            return "an array of tables"
        return f"an array, each element {_kind_words(element, notes)}"
    if origin is dict:
        return f"a table, each value {_kind_words(typing.get_args(hint)[1], notes)}"
    words = {
        bool: "true or false",
        str: "text",
        int: "a whole number",
        float: "a number",
        object: "any value",
    }
    if hint in words:
        return words[hint]
    if hint is Path:
        return "an absolute path"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return "one of: " + ", ".join(show_value(member.value) for member in hint)
    if isinstance(hint, type) and issubclass(hint, FromConfig):
        return _custom_words(hint)
    return "a table"


def _custom_words(hint: type[FromConfig]) -> str:
    try:
        hint.from_config(None)
    except NotWanted as exc:
        return str(exc)
    raise AssertionError(f"{hint.__name__} takes a missing value")


def _bound_words(hint: object, notes: Option) -> str:
    words = []
    if notes.at_least is not None:
        words.append(f"at least {_bound_text(notes.at_least)}")
    if notes.at_most is not None:
        words.append(f"at most {_bound_text(notes.at_most)}")
    if notes.length_max is not None:
        unit = "characters" if hint is str else "elements"
        words.append(f"at most {notes.length_max} {unit}")
    return ", " + ", ".join(words) if words else ""


def _bound_text(bound: float) -> str:
    return bound.to_config() if isinstance(bound, FromConfig) else f"{bound:g}"


def show_value(value: object) -> str:
    """A wrong value for an error: one line, printable, bounded."""
    if isinstance(value, str):
        text = '"' + value[: SHOWN_CHARACTERS_MAX + 1].replace("\\", "\\\\").replace('"', '\\"') + '"'
    elif isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, dict):
        return "a table"
    elif isinstance(value, list):
        return "an array" if value else "an empty array"
    elif isinstance(value, int) and value.bit_length() > 256:
        return "a huge number"
    else:
        text = str(value)
    if len(text) > SHOWN_CHARACTERS_MAX:
        text = text[:SHOWN_CHARACTERS_MAX] + "…"
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)
