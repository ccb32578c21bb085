"""Messages as values and values as messages: the one place that knows both (the collector's ingest reads
batches from protobuf directly, because it was measured to matter there).

Everything that comes from the wire is checked for form here and raises Unreadable with a sentence for people;
whether it is *allowed* is for the collector's ingest to say.
"""

import hashlib
import itertools
import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from google.protobuf.internal import api_implementation
from google.protobuf.message import DecodeError

from watchbill.backups.bounds import JOB_NAME_CHARACTERS_MAX, LEVEL_CHARACTERS_MAX
from watchbill.errors import Permanent, Unreadable
from watchbill.limits import (
    AUDIT_HEADS_MAX,
    DICTIONARY_BYTES_MAX,
    DICTIONARY_PARTS_MAX,
    HELP_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    ORDER_BYTES_MAX,
    REQUEST_ID_BYTES,
    TAKES_CHARACTERS_MAX,
    TAKES_MAX,
)
from watchbill.protocol.accounting import GapPart
from watchbill.protocol.frames import (
    NO_DIGEST,
    Ack,
    AuditHead,
    Busy,
    Down,
    End,
    EndReason,
    GapReason,
    Hello,
    Nack,
    Refusal,
    RetiredSpool,
    RunnerOrder,
    Settings,
    Stream,
    StreamMark,
    StreamState,
    VerifyBackup,
    Welcome,
)
from watchbill.v1 import link_pb2 as pb

_PART_BYTES_MAX = MESSAGE_BYTES_MAX * 3 // 4
"""Parts of a dictionary are closed at this size, so that the last series added still fits the message."""


def require_fast_protobuf() -> None:
    """Raise Permanent when protobuf runs in pure Python: a nested message can then exhaust the stack."""
    if api_implementation.Type() == "python":
        raise Permanent("protobuf runs without its C library here; install protobuf's wheel for this machine")


# ---------------------------------------------------------------- series


class MetricKind(IntEnum):
    """What a family's numbers mean; the numbers of the enum travel."""

    UNTYPED = 0
    COUNTER = 1
    GAUGE = 2
    HISTOGRAM = 3
    SUMMARY = 4


Labels = tuple[tuple[str, str], ...]
"""Own labels of a series: sorted by name, no empty values, without the metric's name."""


@dataclass(frozen=True, slots=True)
class FamilyRun:
    """Consecutive series of one metric. A metric may come in several runs; values follow the series'
    order."""

    name: str
    kind: MetricKind
    help: str
    series: tuple[Labels, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Schema:
    """A series dictionary as it is sent: `frames` are whole Up messages, in order.

    `schema_id` is taken from the content, so the same series have the same id on every host and after a
    restart.
    """

    schema_id: int
    series: int
    frames: tuple[bytes, ...]


def encode_schema(runs: Sequence[FamilyRun]) -> Schema:
    """The dictionary of these series. Raises Unreadable when they are too many or their text is not UTF-8."""
    parts: list[list[pb.Family]] = [[]]
    size = 0
    total = 0
    for run in runs:
        family: pb.Family | None = None
        for labels in run.series:
            if family is None or size > _PART_BYTES_MAX:
                if size > _PART_BYTES_MAX:
                    parts.append([])
                    size = 0
                family = _family(run)
                size += len(family.name) + len(family.help) + 8
                parts[-1].append(family)
            total += 1
            try:
                pairs = [text.encode() for pair in labels for text in pair]
            except UnicodeEncodeError as exc:
                raise Unreadable(f"a label of {run.name!a} is not UTF-8: {exc}") from exc
            family.series.add(pairs=pairs)
            size += sum(map(len, pairs)) + 2 * len(pairs) + 2
    blobs = [pb.Dictionary(families=families).SerializeToString(deterministic=True) for families in parts]
    if len(parts) > DICTIONARY_PARTS_MAX or sum(map(len, blobs)) > DICTIONARY_BYTES_MAX:
        raise Unreadable(f"a dictionary of {sum(map(len, blobs))} bytes in {len(parts)} parts is too large")
    schema_id = int.from_bytes(hashlib.sha256(b"".join(blobs)).digest()[:8], "big")
    frames = tuple(
        pb.Up(
            dictionary=pb.Dictionary(schema_id=schema_id, part=part, parts=len(parts), families=families)
        ).SerializeToString()
        for part, families in enumerate(parts)
    )
    if max(map(len, frames)) > MESSAGE_BYTES_MAX:
        raise Unreadable("one series' labels are larger than a message may be")
    return Schema(schema_id, total, frames)


def _family(run: FamilyRun) -> pb.Family:
    """The family without its series. Raises Unreadable."""
    try:
        name, help_ = run.name.encode(), run.help[:HELP_BYTES_MAX].encode()
    except UnicodeEncodeError as exc:
        raise Unreadable(f"the metric {run.name!a} or its help is not UTF-8: {exc}") from exc
    return pb.Family(name=name, type=int(run.kind), help=help_)  # type: ignore[arg-type]  # The numbers are the same.


class Texts(dict[bytes, str]):
    """The texts of a dictionary by their bytes; each different one is decoded once, when it is first asked for.

    `odd` are those that are not UTF-8, as they are returned: with a lone surrogate for every bad byte. No text
    that is UTF-8 has one, so the two cannot be confused.
    """

    __slots__ = ("odd",)

    def __init__(self) -> None:
        super().__init__()
        self.odd: set[str] = set()

    def __missing__(self, raw: bytes) -> str:
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            text = raw.decode("utf-8", "surrogateescape")
            self.odd.add(text)
        self[raw] = text
        return text


def decode_runs(dictionary: pb.Dictionary, texts: Texts | None = None) -> list[FamilyRun]:
    """The families of one part of a dictionary, in order. What is not UTF-8 is told by `texts.odd`; of a help
    text the bad bytes are replaced. Raises Unreadable: odd label pairs.
    """
    texts = Texts() if texts is None else texts
    text_of = texts.__getitem__
    runs = []
    for family in dictionary.families:
        name = texts[family.name]
        try:
            kind = MetricKind(family.type)
        except ValueError:
            kind = MetricKind.UNTYPED  # A newer agent's type: the numbers are still numbers.
        series: list[Labels] = []
        for labels in family.series:
            pairs = list(map(text_of, labels.pairs))
            if len(pairs) % 2:
                raise Unreadable(f"a series of {name[:200]!a} has a label name without a value")
            series.append(tuple(zip(pairs[::2], pairs[1::2], strict=True)))
        runs.append(FamilyRun(name, kind, family.help.decode("utf-8", "replace"), tuple(series)))
    return runs


# ---------------------------------------------------------------- records


@dataclass(frozen=True, slots=True, eq=False)
class BlockValues:
    """Readings of one group of series: `values` is tick after tick, each in the schema's order.

    `boottime_ms` has one entry per tick, ascending; `wall_ms` is what the host's clock said at the first.
    """

    schema: Schema
    boottime_ms: Sequence[int]
    wall_ms: int
    values: bytes


def pack(values: Iterable[float]) -> bytes:
    """Numbers as little-endian float64."""
    packed = array("d", values)
    if sys.byteorder != "little":
        packed.byteswap()
    return packed.tobytes()


def _block(block: BlockValues) -> pb.Block:
    times = block.boottime_ms
    assert len(block.values) == 8 * len(times) * block.schema.series
    return pb.Block(
        schema_id=block.schema.schema_id,
        first_boottime_ms=times[0],
        steps_ms=[later - earlier for earlier, later in itertools.pairwise(times)],
        first_wall_ms=block.wall_ms,
        values=block.values,
    )


def encode_ticks(blocks: Sequence[BlockValues], boot_id: str = "") -> bytes:
    """The body of a record with readings: what `number` puts a sequence number before."""
    ticks = pb.Ticks(boot_id=boot_id, blocks=[_block(block) for block in blocks])
    return pb.Record(ticks=ticks).SerializeToString()


@dataclass(frozen=True, slots=True)
class GapBody:
    """What a gap record says beside the numbers it covers; `samples` and times are 0 where unknown, times are
    CLOCK_BOOTTIME in ms. `parts` say how the samples are spread over the beginning of the gap, `digest` is that of the
    last record it replaces."""

    reason: GapReason
    samples: int = 0
    first_boottime_ms: int = 0
    last_boottime_ms: int = 0
    parts: tuple[GapPart, ...] = ()
    digest: int = NO_DIGEST


def encode_gap(first: int, last: int, gap: GapBody, *, notice: bool = False) -> bytes:
    """A whole gap record over `first`..`last`. A notice stands in one number's place and has lost no
    record."""
    return pb.Record(
        seq=first,
        gap=pb.Gap(
            to_seq=last,
            count=0 if notice else last - first + 1,
            first_boottime_ms=gap.first_boottime_ms,
            last_boottime_ms=gap.last_boottime_ms,
            reason=int(gap.reason),  # type: ignore[arg-type]  # The numbers are the same.
            samples=gap.samples,
            parts=[pb.GapPart(records=part.records, samples=part.samples) for part in gap.parts],
            digest=gap.digest,
        ),
    ).SerializeToString()


def decode_gap(content: bytes) -> tuple[int, int, GapBody]:
    """A whole gap record: the first number it covers, the last, and what it says. Raises Unreadable."""
    try:
        record = pb.Record.FromString(content)
        reason = GapReason(record.gap.reason)
    except (DecodeError, ValueError) as exc:
        raise Unreadable(f"what is no gap record: {exc}") from exc
    gap = record.gap
    parts = tuple(GapPart(part.records, part.samples) for part in gap.parts)
    body = GapBody(reason, gap.samples, gap.first_boottime_ms, gap.last_boottime_ms, parts, gap.digest)
    return record.seq, gap.to_seq, body


def encode_event(event_id: bytes, kind: str, boottime_ms: int, wall_ms: int, payload: bytes) -> bytes:
    """The body of a record of the crit stream."""
    event = pb.Event(event_id=event_id, kind=kind, boottime_ms=boottime_ms, wall_ms=wall_ms, payload=payload)
    return pb.Record(event=event).SerializeToString()


def number(seq: int, body: bytes) -> bytes:
    """A record: `body` with its sequence number. Fields of a message may stand in any order, so the number is
    simply put before it."""
    out = bytearray(b"\x08")  # Field 1, varint.
    while seq > 0x7F:
        out.append(seq & 0x7F | 0x80)
        seq >>= 7
    out.append(seq)
    return bytes(out) + body


# ---------------------------------------------------------------- agent to collector


def encode_hello(hello: Hello) -> bytes:
    """The first Up message of a session."""
    return pb.Up(
        hello=pb.Hello(
            protocol=hello.protocol,
            agent_version=hello.agent_version,
            spool_id=hello.spool_id,
            boot_id=hello.boot_id,
            streams=[
                pb.StreamState(
                    stream=int(state.stream),  # type: ignore[arg-type]
                    first_retained=state.first_retained,
                    last_durable=state.last_durable,
                    acked=state.acked,
                    acked_digest=state.acked_digest,
                )
                for state in hello.streams
            ],
            retired=[
                pb.RetiredSpool(spool_id=old.spool_id, stream=int(old.stream), last_seq=old.last_seq)  # type: ignore[arg-type]
                for old in hello.retired
            ],
            wall_ms=hello.wall_ms,
            boottime_ms=hello.boottime_ms,
            instance=hello.instance,
            job=hello.job,
            labels=dict(hello.labels),
            interval_ms=hello.interval_ms,
            ticks_per_message=hello.ticks_per_message,
            run_id=hello.run_id,
            beat_interval_ms=hello.beat_interval_ms,
            audit=[pb.AuditHead(seq=head.seq, hash=head.hash) for head in hello.audit],
            takes=hello.takes,
        )
    ).SerializeToString()


def decode_hello(message: pb.Hello) -> Hello:
    """A Hello as a value. Raises Unreadable for streams that do not exist."""
    return Hello(
        agent_version=message.agent_version,
        spool_id=message.spool_id,
        run_id=message.run_id,
        boot_id=message.boot_id,
        streams=tuple(
            StreamState(
                _stream(state.stream),
                state.first_retained,
                state.last_durable,
                state.acked,
                state.acked_digest,
            )
            for state in message.streams
        ),
        retired=tuple(
            RetiredSpool(old.spool_id, _stream(old.stream), old.last_seq) for old in message.retired
        ),
        wall_ms=message.wall_ms,
        boottime_ms=message.boottime_ms,
        instance=message.instance,
        job=message.job or "node",
        labels=_labels(message.labels),
        interval_ms=message.interval_ms,
        ticks_per_message=message.ticks_per_message,
        protocol=message.protocol,
        beat_interval_ms=message.beat_interval_ms,
        audit=tuple(AuditHead(head.seq, head.hash) for head in message.audit[:AUDIT_HEADS_MAX]),
        takes=tuple(order[:TAKES_CHARACTERS_MAX] for order in message.takes[:TAKES_MAX]),
    )


def _labels(labels: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in labels.items() if value}


def _stream(number_: int) -> Stream:
    try:
        return Stream(number_)
    except ValueError as exc:
        raise Unreadable(f"stream {number_} does not exist") from exc


def encode_batch(stream: Stream, records: Iterable[bytes]) -> bytes:
    """An Up message with these records, which are copied once."""
    return pb.Up(batch=pb.Batch(stream=int(stream), records=list(records))).SerializeToString()  # type: ignore[arg-type]


def encode_beat(
    boottime_ms: int,
    wall_ms: int,
    backlog_records: int = 0,
    backlog_bytes: int = 0,
    block: BlockValues | None = None,
    audit: AuditHead | None = None,
) -> bytes:
    """An Up message that says we are alive, with the values of one tick when `block` is given, and what we were told
    last of the collector's audit when `audit` is.
    """
    beat = pb.Beat(
        boottime_ms=boottime_ms,
        wall_ms=wall_ms,
        backlog_records=backlog_records,
        backlog_bytes=backlog_bytes,
        block=None if block is None else _block(block),
        audit=_pb_head(audit),
    )
    return pb.Up(beat=beat).SerializeToString()


def encode_bye(reason: str, back_within_ms: int = 0) -> bytes:
    """An Up message that announces a stop, and within how long the host means to be back; 0: as its reason says."""
    return pb.Up(bye=pb.Bye(reason=reason, back_within_ms=back_within_ms)).SerializeToString()


# ---------------------------------------------------------------- collector to agent


def _pb_head(head: AuditHead | None) -> pb.AuditHead | None:
    return None if head is None else pb.AuditHead(seq=head.seq, hash=head.hash)


def _head(message: pb.AuditHead) -> AuditHead:
    return AuditHead(message.seq, message.hash)


def encode_down(frame: Down) -> bytes:
    """A frame of the collector as a Down message."""
    if isinstance(frame, Ack):
        down = pb.Down(
            ack=pb.Ack(
                marks=_pb_marks(frame.marks),
                credit_bytes=frame.credit_bytes,
                server_time_ms=frame.server_time_ms,
                audit=_pb_head(frame.audit),
            )
        )
    elif isinstance(frame, Welcome):
        down = pb.Down(
            welcome=pb.Welcome(
                session=frame.session,
                server_time_ms=frame.server_time_ms,
                marks=_pb_marks(frame.marks),
                settings=_pb_settings(frame.settings),
                message_bytes_max=frame.message_bytes_max,
                batch_records_max=frame.batch_records_max,
                series_max=frame.series_max,
                instance=frame.instance,
                audit=_pb_head(frame.audit),
            )
        )
    elif isinstance(frame, Nack):
        down = pb.Down(nack=pb.Nack(stream=int(frame.stream), expected=frame.expected))  # type: ignore[arg-type]
    elif isinstance(frame, Settings):
        down = pb.Down(settings=_pb_settings(frame))
    elif isinstance(frame, Busy):
        down = pb.Down(busy=pb.Busy(retry_after_ms=frame.retry_after_ms))
    elif isinstance(frame, Refusal):
        down = pb.Down(refusal=pb.Refusal(reason=frame.reason, count=frame.count, detail=frame.detail))
    elif isinstance(frame, VerifyBackup):
        down = pb.Down(verify=pb.VerifyBackup(request_id=frame.request_id, job=frame.job, level=frame.level))
    elif isinstance(frame, RunnerOrder):
        down = pb.Down(order=pb.RunnerOrder(body=frame.body, ttl_ms=frame.ttl_ms))
    else:
        down = pb.Down(
            end=pb.End(
                reason=int(frame.reason),  # type: ignore[arg-type]
                detail=frame.detail,
                retry_after_ms=frame.retry_after_ms,
            )
        )
    return down.SerializeToString()


def decode_down(message: bytes) -> Down | None:
    """A Down message as a frame; None for a kind that a newer collector may send. Raises Unreadable."""
    try:
        down = pb.Down.FromString(message)
    except DecodeError as exc:
        raise Unreadable(f"the collector sent what is no message: {exc}") from exc
    kind = down.WhichOneof("message")
    if kind == "ack":
        head = _head(down.ack.audit) if down.ack.HasField("audit") else None
        return Ack(_marks(down.ack.marks), down.ack.credit_bytes, down.ack.server_time_ms, head)
    if kind == "welcome":
        welcome = down.welcome
        return Welcome(
            welcome.session,
            welcome.server_time_ms,
            _marks(welcome.marks),
            _settings(welcome.settings),
            welcome.message_bytes_max,
            welcome.batch_records_max,
            welcome.series_max,
            welcome.instance,
            _head(welcome.audit) if welcome.HasField("audit") else None,
        )
    if kind == "nack":
        return Nack(_stream(down.nack.stream), down.nack.expected)
    if kind == "settings":
        return _settings(down.settings)
    if kind == "busy":
        return Busy(down.busy.retry_after_ms)
    if kind == "refusal":
        return Refusal(down.refusal.reason, down.refusal.count, down.refusal.detail)
    if kind == "verify":
        return _verify(down.verify)
    if kind == "order":
        return _order(down.order)
    if kind == "end":
        try:
            reason = EndReason(down.end.reason)
        except ValueError:
            reason = EndReason.UNSPECIFIED
        return End(reason, down.end.detail, down.end.retry_after_ms)
    return None


def _verify(message: pb.VerifyBackup) -> VerifyBackup:
    if len(message.request_id) != REQUEST_ID_BYTES:
        raise Unreadable(f"a request's id: got {len(message.request_id)} bytes, wanted {REQUEST_ID_BYTES}")
    if not 0 < len(message.job) <= JOB_NAME_CHARACTERS_MAX or not message.job.isprintable():
        raise Unreadable(f"a request's job: wanted a name of 1 to {JOB_NAME_CHARACTERS_MAX} characters")
    if len(message.level) > LEVEL_CHARACTERS_MAX or not message.level.isprintable():
        raise Unreadable(f"a request's level: wanted a word of at most {LEVEL_CHARACTERS_MAX} characters")
    return VerifyBackup(message.request_id, message.job, message.level)


def _order(message: pb.RunnerOrder) -> RunnerOrder:
    if not 0 < len(message.body) <= ORDER_BYTES_MAX:
        raise Unreadable(f"an order: got {len(message.body)} bytes, wanted 1 to {ORDER_BYTES_MAX}")
    return RunnerOrder(message.body, message.ttl_ms)


def _pb_marks(marks: Iterable[StreamMark]) -> list[pb.StreamMark]:
    return [
        pb.StreamMark(stream=int(mark.stream), committed=mark.committed, digest=mark.digest)  # type: ignore[arg-type]
        for mark in marks
    ]


def _marks(marks: Iterable[pb.StreamMark]) -> tuple[StreamMark, ...]:
    return tuple(StreamMark(_stream(mark.stream), mark.committed, mark.digest) for mark in marks)


def _pb_settings(settings: Settings) -> pb.Settings:
    return pb.Settings(
        credit_bytes=settings.credit_bytes,
        reconnect_spread_ms=settings.reconnect_spread_ms,
        beat_interval_ms=settings.beat_interval_ms,
        beat_metrics=settings.beat_metrics,
        send_grid_ms=settings.send_grid_ms,
        evaluation_period_ms=settings.evaluation_period_ms,
        evaluation_phase_ms=settings.evaluation_phase_ms,
        ack_interval_ms=settings.ack_interval_ms,
    )


def _settings(message: pb.Settings) -> Settings:
    return Settings(
        credit_bytes=message.credit_bytes,
        reconnect_spread_ms=message.reconnect_spread_ms,
        beat_interval_ms=message.beat_interval_ms,
        beat_metrics=tuple(message.beat_metrics),
        send_grid_ms=message.send_grid_ms,
        evaluation_period_ms=message.evaluation_period_ms,
        evaluation_phase_ms=message.evaluation_phase_ms,
        ack_interval_ms=message.ack_interval_ms,
    )
