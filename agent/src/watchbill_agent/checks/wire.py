"""What the processes of checks say to each other: frames of msgpack, each behind its length, on pipes.

daemon -> child     Reload, Ping                 (end of file: end)
child -> daemon     Alive, Published, Happened, Refused
child -> worker     Question                     worker -> child: Answer
child -> listener   Question                     listener -> child: Answer, again and again
"""

import asyncio
import struct
from collections.abc import Sequence
from typing import IO, Any, Final, TypeVar

import msgspec

from watchbill_agent.checks.check import (
    DETAIL_CHARACTERS_MAX,
    REASON_CHARACTERS_MAX,
    Happening,
    Outcome,
    Samples,
    Verdict,
)
from watchbill_agent.reading import Family, MetricType, Series

FRAME_BYTES_MAX: Final = 16 * 1024 * 1024
"""10,000 samples with long labels are about 3 MB."""
_LENGTH: Final = struct.Struct("<I")

T = TypeVar("T")
Decoder = msgspec.msgpack.Decoder


class Table(msgspec.Struct, frozen=True, array_like=True):
    """Numbers with their names, `values` packed as little-endian float64."""

    families: tuple[tuple[str, str, str], ...]
    series: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    values: bytes


class Result(msgspec.Struct, frozen=True, array_like=True):
    """An outcome on its way."""

    verdict: int
    reason: str
    detail: str
    table: Table
    happenings: tuple[tuple[str, dict[str, Any]], ...]


class Question(msgspec.Struct, frozen=True, array_like=True):
    """Look once, or listen. `values` are the kind's own keys as the file has them."""

    name: str
    kind: str
    values: dict[str, Any]
    interval_s: float
    timeout_s: float
    trees: tuple[str, str, str, str]
    """etc, procfs, sysfs, rootfs."""
    within_s: float
    memory: dict[str, Any] | None


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """What a look found, and what is to be remembered."""

    result: Result
    memory: dict[str, Any] | None
    took_s: float = 0.0
    """The look alone: neither the start of a process nor waiting for one."""


class Reload(msgspec.Struct, frozen=True, tag="reload"):
    """Read checks.d anew. What did not change goes on as it is."""


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    """Somebody pinged."""

    name: str
    what: str
    code: int | None
    text: str
    at_ms: int


class Alive(msgspec.Struct, frozen=True, tag="alive"):
    """Every few seconds: what was counted, by the names of `present.Counts`."""

    counts: dict[str, float]


class Published(msgspec.Struct, frozen=True, tag="published"):
    """How a check stands. `table` is None when its names are those of the last time, `values` its numbers then."""

    check: str
    group: str
    interval_s: float
    timeout_s: float
    verdict: int
    reason: str
    detail: str
    changed: bool
    values: bytes
    table: Table | None


class Happened(msgspec.Struct, frozen=True, tag="happened"):
    """A critical event."""

    kind: str
    payload: dict[str, Any]


class Watching(msgspec.Struct, frozen=True, tag="watching"):
    """The checks that run from now on: what is not among them is over. `pinged` are those that take pings."""

    checks: tuple[str, ...]
    pinged: tuple[str, ...]


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """A reload changed nothing, since the files are wrong."""

    problems: tuple[str, ...]


READY: Final = b"!"
"""What a process that answers questions says first: its start is no part of any deadline."""
TO_CHILD: Final = Decoder[Reload | Ping](Reload | Ping)
TO_DAEMON: Final = Decoder[Alive | Published | Happened | Watching | Refused](
    Alive | Published | Happened | Watching | Refused
)
QUESTIONS: Final = Decoder(Question)
ANSWERS: Final = Decoder(Answer)


# ---------------------------------------------------------------- outcomes


def table_of(samples: Samples) -> Table:
    """Ready to be sent."""
    return Table(
        tuple((one.name, one.type.value, one.help) for one in samples.families.values()),
        tuple((one.name, one.labels) for one in samples.series),
        pack(samples.values),
    )


def samples_of(table: Table) -> Samples:
    """The other way round. Raises ValueError for values that do not fit."""
    found = Samples()
    found.families = {name: Family(name, MetricType(kind), help_) for name, kind, help_ in table.families}
    found.series = [Series(name, pairs) for name, pairs in table.series]
    found.values = list(unpack(table.values))
    if len(found.values) != len(found.series):
        raise ValueError("values that do not fit their names")
    return found


def pack(values: Sequence[float]) -> bytes:
    """Numbers as little-endian float64."""
    return struct.pack(f"<{len(values)}d", *values)


def unpack(values: bytes) -> tuple[float, ...]:
    """The other way round."""
    return struct.unpack(f"<{len(values) // 8}d", values[: len(values) // 8 * 8])


def result_of(outcome: Outcome) -> Result:
    """Ready to be sent; words are cut to their bounds."""
    return Result(
        int(outcome.verdict),
        outcome.reason[:REASON_CHARACTERS_MAX],
        one_line(outcome.detail),
        table_of(outcome.samples),
        tuple((one.kind, dict(one.payload)) for one in outcome.happenings),
    )


def outcome_of(result: Result) -> Outcome:
    """The other way round. Raises ValueError for what is none."""
    return Outcome(
        Verdict(result.verdict),
        result.reason,
        result.detail,
        samples_of(result.table),
        tuple(Happening(kind, payload) for kind, payload in result.happenings),
    )


def one_line(text: str) -> str:
    """Printable, on one line, bounded: it is shown on terminals and pages."""
    shown = "".join(char if char.isprintable() else " " for char in text[: 2 * DETAIL_CHARACTERS_MAX])
    return " ".join(shown.split())[:DETAIL_CHARACTERS_MAX]


# ---------------------------------------------------------------- frames


def frame(message: object) -> bytes:
    """A message behind its length."""
    content = msgspec.msgpack.encode(message)
    if len(content) > FRAME_BYTES_MAX:
        raise ValueError(f"{len(content)} bytes, wanted at most {FRAME_BYTES_MAX}")
    return _LENGTH.pack(len(content)) + content


async def receive(reader: asyncio.StreamReader, decoder: Decoder[T]) -> T:
    """The next message. Raises EOFError at the end, and for what is none."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > FRAME_BYTES_MAX:
            raise EOFError
        return decoder.decode(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError, msgspec.MsgspecError) as exc:
        raise EOFError from exc


def receive_here(stream: IO[bytes], decoder: Decoder[T]) -> T:
    """The same, waiting. Raises EOFError."""
    try:
        (length,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
        if length > FRAME_BYTES_MAX:
            raise EOFError
        return decoder.decode(_exactly(stream, length))
    except msgspec.MsgspecError as exc:
        raise EOFError from exc


def _exactly(stream: IO[bytes], size: int) -> bytes:
    content = stream.read(size)
    if len(content) != size:
        raise EOFError
    return content
