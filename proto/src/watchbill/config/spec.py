"""How a daemon says what its configuration looks like: frozen dataclasses whose fields carry bounds and help.

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Retention:
        raw: Duration = option(Duration(15 * 86_400), help="How long raw samples are kept.",
        at_least=Duration(3600))

Plain fields with plain defaults work too. A dataclass may have a method `check() -> Iterable[Wrong |
Problem]` for what concerns several fields at once; it runs when each field alone was right.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

_KEY: Final = "watchbill.config"


@dataclass(frozen=True, slots=True)
class Option:
    """What `option` noted about a field."""

    help: str = ""
    at_least: float | None = None
    at_most: float | None = None
    length_max: int | None = None
    check: "Callable[[Any], str | Iterable[Wrong] | None] | None" = None
    """Takes the converted value; answers what is wanted instead, or what is wrong inside it; None or nothing
    when it is right.
    """
    name: str = ""
    """The key in the file, where it differs from the field's name."""
    rest: bool = False
    """The field takes every table whose key no other field has: a plug-in's options under the plug-in's name.
    """
    example: str = ""
    """A TOML value for the sample file, where the default would say little."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """What a `check` found: `key` is relative to what was checked, "" for that itself; a tuple where the keys
    may hold dots.
    """

    key: str | tuple[str | int, ...]
    got: str
    wanted: str


def option(default: Any = dataclasses.MISSING, **notes: Any) -> Any:
    """A dataclass field with notes for the loader and the printer; see Option for what may be noted.

    Mutable defaults (lists, dictionaries, tables) are copied for each value. Without a default the key is
    required.
    """
    metadata: Mapping[str, object] = {_KEY: Option(**notes)}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    if dataclasses.is_dataclass(default) and not isinstance(default, type):
        return dataclasses.field(default_factory=lambda: default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def option_of(field: dataclasses.Field[Any]) -> Option:
    """The notes of a field; empty ones when it was declared without `option`."""
    noted = field.metadata.get(_KEY)
    return noted if isinstance(noted, Option) else Option()


def key_of(field: dataclasses.Field[Any]) -> str:
    """The key under which a file has this field."""
    return option_of(field).name or field.name
