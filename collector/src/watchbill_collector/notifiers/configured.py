"""`[[channel]]` tables to channels: every mistake with its file, line and key, all of them at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from watchbill.config import ConfigError, Problem, Table
from watchbill_collector.notifiers.channel import Channel, Surroundings, discover
from watchbill_collector.notifiers.notice import SendFailed

CHANNELS_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Configured:
    """One channel as its table has it; `options` is its kind's Options."""

    name: str
    kind: type[Channel]
    options: Any
    table: Table


def read_channels(tables: Sequence[Table]) -> list[Configured]:
    """What the tables say. Raises ConfigError with every problem of every table."""
    problems: list[Problem] = []
    found: dict[str, Configured] = {}
    if len(tables) > CHANNELS_MAX:
        raise ConfigError(
            [tables[CHANNELS_MAX].problem("", f"{len(tables)} channels", f"at most {CHANNELS_MAX}")]
        )
    for table in tables:
        try:
            channel = _read(table)
        except ConfigError as exc:
            problems += exc.problems
            continue
        if channel.name in found:
            problems.append(table.problem("name", f'"{channel.name}" again', "a name for each channel"))
        found[channel.name] = channel
    if problems:
        raise ConfigError(problems)
    return list(found.values())


def channel_problems(tables: Sequence[Table]) -> list[Problem]:
    """The same, as the `check` of a configuration wants it."""
    try:
        read_channels(tables)
    except ConfigError as exc:
        return exc.problems
    return []


def without_digest(tables: Sequence[Table]) -> dict[str, str]:
    """The channels whose kind takes no digest, by name, with what becomes of one: page or none. Tables that are wrong
    are left out.
    """
    kinds = discover()
    found: dict[str, str] = {}
    for table in tables:
        name, said = table.values.get("name"), table.values.get("kind")
        kind = kinds.get(said) if isinstance(said, str) else None
        if isinstance(name, str) and kind is not None and kind.instead_of_digest is not None:
            found[name] = kind.instead_of_digest
    return found


def _read(table: Table) -> Configured:
    kinds = discover()
    said = table.values.get("kind")
    kind = kinds.get(said) if isinstance(said, str) else None
    if kind is None:
        raise ConfigError([_unknown_kind(table, said, list(kinds))])
    options = table.read(kind.options_type)
    return Configured(options.name, kind, options, table)


def _unknown_kind(table: Table, said: object, kinds: list[str]) -> Problem:
    shown = "nothing"
    if isinstance(said, str):
        shown = '"' + "".join(char if char.isprintable() else "?" for char in said[:64]) + '"'
    elif said is not None:
        shown = "something that is no text"
    near = get_close_matches(said[:64], kinds, n=1) if isinstance(said, str) else []
    meant = f" (did you mean {near[0]}?)" if near else ""
    wanted = "one of: " + ", ".join(f'"{kind}"' for kind in kinds) + meant
    return table.problem("kind", shown, wanted)


def build(configured: Configured, surroundings: Surroundings) -> Channel:
    """The channel, ready to send; opens nothing."""
    return configured.kind(configured.options, surroundings)


def build_all(tables: Sequence[Table], surroundings: Surroundings) -> dict[str, Channel]:
    """Every channel by its name. Raises ConfigError."""
    return {channel.name: build(channel, surroundings) for channel in read_channels(tables)}


def check_ready(tables: Sequence[Table], surroundings: Surroundings) -> list[Problem]:
    """What is configured rightly and could not send all the same: a secret that is missing, a program."""
    problems = []
    for configured in read_channels(tables):
        try:
            build(configured, surroundings).ready()
        except SendFailed as exc:
            got = f"a channel {configured.name} that cannot send ({exc.why})"
            problems.append(configured.table.problem("", got, "one that can"))
    return problems


def option_types() -> Mapping[str, type]:
    """Options by kind, for the printed reference."""
    return {name: kind.options_type for name, kind in discover().items()}


def channel_reference() -> str:
    """Markdown: one section a kind, its help, one row a key."""
    from watchbill.config.printer import reference

    parts = []
    for name, kind in discover().items():
        table = "\n".join(reference(kind.options_type).split("\n")[2:])
        parts.append(f'## `[[channel]]`, `kind = "{name}"`\n\n{kind.help()}\n\n{table}')
    return "\n".join(parts)


def channel_sample() -> str:
    """Commented TOML: one `[[channel]]` of each kind, what has a default left out but for its help."""
    from watchbill.config.printer import sample_file

    parts = []
    for name, kind in discover().items():
        body = sample_file(kind.options_type).replace('# kind = "email"', f'# kind = "{name}"')
        parts.append(f"# [[channel]]\n{body}")
    return "\n".join(parts)
