"""The sample file and the reference, printed from the same dataclasses that read the file."""

import dataclasses
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Union

from watchbill.config.convert import Table, wanted_of
from watchbill.config.spec import key_of, option_of
from watchbill.config.units import FromConfig

WIDTH = 100

PlugIns = Mapping[str, Mapping[str, type]]
"""Table name -> plug-in name -> its options: what a spec's `rest` field may hold."""


def sample_file(spec: type, plugins: PlugIns | None = None) -> str:
    """A complete commented file: every key at its default, commented out, under its help."""
    lines = [*_comment(_doc(spec)), ""]
    lines += _sample_table(spec, "", plugins or {})
    return "\n".join(lines).rstrip("\n") + "\n"


def _sample_table(spec: type, name: str, plugins: PlugIns) -> Iterator[str]:
    hints = typing.get_type_hints(spec)
    later: list[tuple[str, type, bool]] = []
    for field in _fields(spec):
        inner, is_array = _inner_spec(hints[field.name])
        key = f"{name}.{key_of(field)}" if name else key_of(field)
        notes = option_of(field)
        if notes.rest:
            continue
        if inner is not None:
            later.append((key, inner, is_array))
            continue
        if notes.help:
            yield from _comment(notes.help)
        default = notes.example or toml_value(_default(field))
        yield f"# {key_of(field)} = {default or '...'}"
        yield ""
    for plugin, options in sorted(plugins.get(name, {}).items()):
        later.append((f"{name}.{plugin}".lstrip("."), options, False))
    for key, inner, is_array in later:
        yield from _comment(_doc(inner))
        yield f"# [[{key}]]" if is_array else f"# [{key}]"
        yield from _sample_table(inner, key, plugins)


def reference(spec: type, plugins: PlugIns | None = None) -> str:
    """Markdown: one section a table, one row a key."""
    return "\n".join(_reference_table(spec, "", plugins or {}, is_array=False)).rstrip("\n") + "\n"


def _reference_table(spec: type, name: str, plugins: PlugIns, *, is_array: bool) -> Iterator[str]:
    hints = typing.get_type_hints(spec)
    if name:
        yield f"## `{'[[' if is_array else '['}{name}{']]' if is_array else ']'}`"
        yield ""
    yield _doc(spec)
    yield ""
    fields = [field for field in _fields(spec) if _inner_spec(hints[field.name])[0] is None]
    rows = [_row(field, hints[field.name]) for field in fields if not option_of(field).rest]
    if rows:
        yield "| key | default | wants | meaning |"
        yield "|---|---|---|---|"
        yield from rows
        yield ""
    for field in _fields(spec):
        inner, inner_is_array = _inner_spec(hints[field.name])
        if inner is not None:
            key = f"{name}.{key_of(field)}" if name else key_of(field)
            yield from _reference_table(inner, key, plugins, is_array=inner_is_array)
    for plugin, options in sorted(plugins.get(name, {}).items()):
        yield from _reference_table(options, f"{name}.{plugin}".lstrip("."), plugins, is_array=False)


def _row(field: dataclasses.Field[Any], hint: object) -> str:
    notes = option_of(field)
    default = _default(field)
    if default is dataclasses.MISSING:
        shown = "required"
    elif default is None or default == "":
        shown = "not set"
    else:
        shown = f"`{toml_value(default)}`"
    cells = (f"`{key_of(field)}`", shown, wanted_of(hint, notes), notes.help)
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _fields(spec: type) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(spec) if field.init]


def _default(field: dataclasses.Field[Any]) -> object:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _inner_spec(hint: object) -> tuple[type | None, bool]:
    """The dataclass of a table field, and whether the field is an array of such tables."""
    is_array = False
    if typing.get_origin(hint) in (Union, types.UnionType):
        hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
    if typing.get_origin(hint) in (list, tuple):
        hint, is_array = typing.get_args(hint)[0], True
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and not issubclass(hint, FromConfig):
        return hint, is_array
    return None, is_array


def _doc(spec: type) -> str:
    text = (spec.__doc__ or "").strip()
    # The dataclass machinery writes a signature where no docstring is.
    return (
        ""
        if text.startswith(f"{spec.__name__}(")
        else "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))
    )


def _comment(text: str) -> Iterator[str]:
    for line in textwrap.wrap(text, WIDTH - 2):
        yield f"# {line}"


def toml_value(value: object) -> str:
    """A default as TOML; empty where there is none."""
    if value is None or value is dataclasses.MISSING:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, FromConfig):
        return toml_text(value.to_config())
    if isinstance(value, Enum):
        return toml_value(value.value)
    if isinstance(value, (str, Path)):
        return toml_text(str(value))
    if isinstance(value, (list, tuple, frozenset)):
        items = sorted(value) if isinstance(value, frozenset) else value
        return "[" + ", ".join(toml_value(item) for item in items) + "]"
    if isinstance(value, Table):
        value = value.values
    if isinstance(value, dict):
        inner = ", ".join(f"{_toml_key(key)} = {toml_value(item)}" for key, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    return str(value)


def _toml_key(key: str) -> str:
    bare = key.isascii() and bool(key) and all(char.isalnum() or char in "_-" for char in key)
    return key if bare else toml_text(key)


def toml_text(text: str) -> str:
    """A TOML string that reads back as `text`."""
    if "'" not in text and ("\\" in text or '"' in text) and text.isprintable():
        return f"'{text}'"
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in escaped) + '"'
