"""The protocol's decisions, one by one: what each end makes of what the other says."""

import pytest

from watchbill.codec import encode_event
from watchbill.limits import GAP_PARTS_MAX, RECORD_BYTES_MAX
from watchbill.protocol.accounting import GapPart, joined, samples_beyond
from watchbill.protocol.client import Adopt, Client, Ended, Fork, MarkLost, Pause, Phase, Release, Rewind
from watchbill.protocol.frames import (
    NO_DIGEST,
    Ack,
    Busy,
    End,
    EndReason,
    GapReason,
    Hello,
    Nack,
    RetiredSpool,
    Settings,
    Stream,
    StreamMark,
    StreamState,
    Welcome,
)
from watchbill.protocol.server import (
    SPOOL_CLOSED,
    AckPolicy,
    Closed,
    Ledger,
    Verdict,
    Watermark,
    fault_of,
    greet,
)
from watchbill_agent.spool import Draft, MemorySpool

BULK, CRIT = Stream.BULK, Stream.CRIT
SPOOL_A, SPOOL_B = b"a" * 16, b"b" * 16


def spool_with(records: int, size: int = 100, bytes_max: int = 2 * RECORD_BYTES_MAX) -> MemorySpool:
    spool = MemorySpool(bytes_max)
    for index in range(records):
        append(spool, index, size)
    return spool


def append(spool: MemorySpool, index: int, size: int = 100, stream: Stream = BULK) -> int:
    body = encode_event(b"e" * 16, "test", index, index, index.to_bytes(4) * (size // 4))
    return spool.append(stream, Draft(body, 10, 1000 + index, 1000 + index))


def welcome(*marks: StreamMark, credit: int = 1 << 20, session: int = 7) -> Welcome:
    return Welcome(session, 0, marks, Settings(credit_bytes=credit))


def opened(spool: MemorySpool, *marks: StreamMark, credit: int = 1 << 20) -> tuple[Client, list[object]]:
    client = Client(spool)
    client.hello()
    orders = list(client.receive(welcome(*marks, credit=credit), 0))
    for order in orders:
        if isinstance(order, Release | Rewind | MarkLost | Fork):
            spool.obey(order)
    return client, orders


def digest(spool: MemorySpool, seq: int) -> int:
    found = spool.digest(BULK, seq)
    assert found is not None
    return found


def numbers(client: Client) -> list[int]:
    run = client.take()
    return [] if run is None else [held.last for held in run.held]


# ---------------------------------------------------------------- the agent's end


def test_a_first_session_sends_everything_from_one() -> None:
    client, orders = opened(spool_with(3), StreamMark(BULK, 0))
    assert [type(order) for order in orders] == [Adopt]
    assert numbers(client) == [1, 2, 3]
    assert client.take() is None


def test_lost_acknowledgements_release_what_the_collector_holds() -> None:
    spool = spool_with(5)
    client, orders = opened(spool, StreamMark(BULK, 3, digest(spool, 3)))
    assert orders[1:] == [Release(BULK, 3, orders[1].digest)]
    assert spool.state(BULK).first_retained == 4
    assert numbers(client) == [4, 5]


def test_a_rewound_collector_gets_what_is_held_and_a_gap_for_the_rest() -> None:
    spool = spool_with(5)
    opened(spool, StreamMark(BULK, 4, digest(spool, 4)))
    client, orders = opened(spool, StreamMark(BULK, 1, 99))
    assert orders[1:] == [Rewind(BULK, 1, 99), MarkLost(BULK, 2, 4, GapReason.COLLECTOR_REWIND)]
    run = client.take()
    assert run is not None
    assert [(held.first, held.last) for held in run.held] == [(2, 4), (5, 5)]


@pytest.mark.parametrize(
    "mark", [StreamMark(BULK, 9, 1), StreamMark(BULK, 2, 1)], ids=["beyond the last", "another digest"]
)
def test_a_spool_that_was_rolled_back_forks(mark: StreamMark) -> None:
    spool = spool_with(3)
    before = spool.spool_id
    client, orders = opened(spool, mark)
    assert orders == [
        Fork((RetiredSpool(before, CRIT, 0), RetiredSpool(before, BULK, mark.committed))),
    ]
    assert spool.spool_id != before
    assert client.phase is Phase.OVER
    client, _ = opened(spool, StreamMark(BULK, 0))
    assert numbers(client) == [1, 2, 3]


def test_a_digest_below_what_was_acknowledged_is_compared_with_the_one_remembered() -> None:
    spool = spool_with(3)
    opened(spool, StreamMark(BULK, 3, digest(spool, 3)))
    _, same = opened(spool, StreamMark(BULK, 3, spool.state(BULK).acked_digest))
    assert [type(order) for order in same] == [Adopt]
    _, other = opened(spool, StreamMark(BULK, 3, 12345))
    assert [type(order) for order in other] == [Fork]


def test_a_record_dropped_after_it_was_sent_is_no_sign_of_a_rollback() -> None:
    spool = spool_with(0)
    for index in range(3):
        append(spool, index, 150_000)
    client, _ = opened(spool, StreamMark(BULK, 0))
    run = client.take()
    assert run is not None
    spool.sent(BULK, run.held[-1].last)
    sent_digest = digest(spool, 1)
    for index in range(3, 8):
        append(spool, index, 150_000)
    assert spool.state(BULK).first_retained == 1
    assert spool.held_after(BULK, 0).gap is GapReason.OVERFLOW
    _, orders = opened(spool, StreamMark(BULK, 1, sent_digest))
    assert Fork not in [type(order) for order in orders]


def dropped_after_sending(records: int) -> MemorySpool:
    """A spool that sent so many records, heard no answer, and then had to drop them."""
    spool = spool_with(records, size=100_000)
    spool.sent(BULK, records)
    for index in range(records, records + 8):
        append(spool, index, size=100_000)
    held = spool.held_after(BULK, 0)
    assert held is not None
    assert held.last >= records, "they are all inside the gap"
    return spool


@pytest.mark.parametrize("seq", [1, 2, 3])
def test_a_clones_record_under_the_number_of_a_dropped_one_is_told_apart(seq: int) -> None:
    # Were the digests of dropped records forgotten, the clone's records would pass for these, and what this host
    # lost would be released without a word.
    spool = dropped_after_sending(3)
    theirs = digest(spool, seq) ^ 1
    _, orders = opened(spool, StreamMark(BULK, seq, theirs))
    (fork,) = orders
    assert isinstance(fork, Fork)
    assert [(old.stream, old.last_seq) for old in fork.retired] == [(CRIT, 0), (BULK, seq)]
    gap = spool.held_after(BULK, 0)
    assert gap is not None
    assert gap.gap is GapReason.OVERFLOW, "what is lost here is still to be told"


@pytest.mark.parametrize("seq", [1, 2, 3])
def test_a_dropped_record_that_the_collector_holds_is_released_and_the_rest_told(seq: int) -> None:
    spool = dropped_after_sending(3)
    _, orders = opened(spool, StreamMark(BULK, seq, digest(spool, seq)))
    assert [type(order) for order in orders] == [Adopt, Release]
    gap = spool.held_after(BULK, seq)
    assert gap is not None
    watermark = Watermark(spool.spool_id, BULK, seq)
    assert watermark.offer(gap.first, gap.last, b"") is Verdict.ACCEPT
    assert samples_beyond(gap.parts, gap.samples, seq) == 10 * (gap.last - seq)


def test_an_acknowledgement_of_something_else_under_our_number_ends_the_session() -> None:
    spool = spool_with(3)
    client, _ = opened(spool)
    assert numbers(client) == [1, 2, 3]
    spool.sent(BULK, 3)
    (order,) = client.receive(Ack((StreamMark(BULK, 2, digest(spool, 2) ^ 1),), 1 << 20, 0), 7)
    assert isinstance(order, Ended)
    assert spool.state(BULK).acked == 0
    _, orders = opened(spool, StreamMark(BULK, 2, digest(spool, 2) ^ 1))
    assert isinstance(orders[0], Fork)


def test_data_where_this_spool_dropped_unsent_records_is_a_sign_of_a_rollback() -> None:
    spool = spool_with(0)
    for index in range(8):
        append(spool, index, 150_000)
    _, orders = opened(spool, StreamMark(BULK, 1, 4711))
    assert [type(order) for order in orders] == [Fork]


def test_critical_records_go_first() -> None:
    spool = spool_with(2)
    append(spool, 9, stream=CRIT)
    client, _ = opened(spool, StreamMark(CRIT, 0), StreamMark(BULK, 0))
    run = client.take()
    assert run is not None
    assert run.stream is CRIT
    assert numbers(client) == [1, 2]


def test_credit_bounds_what_is_in_flight_and_a_large_record_goes_alone() -> None:
    spool = spool_with(4, size=1000)
    client, _ = opened(spool, StreamMark(BULK, 0), credit=2500)
    assert numbers(client) == [1, 2]
    assert client.take() is None
    assert client.stuck()
    client.receive(Ack((StreamMark(BULK, 2, digest(spool, 2)),), 500), 7)
    assert numbers(client) == [3]
    client.receive(Ack((StreamMark(BULK, 3, digest(spool, 3)),), 0), 7)
    assert client.take() is None


def test_a_nack_goes_back_and_never_before_what_is_acknowledged() -> None:
    spool = spool_with(4)
    client, _ = opened(spool, StreamMark(BULK, 0))
    assert numbers(client) == [1, 2, 3, 4]
    client.receive(Ack((StreamMark(BULK, 1, digest(spool, 1)),), 1 << 20), 7)
    client.receive(Nack(BULK, 1), 7)
    run = client.take()
    assert run is not None
    assert run.again
    assert [held.last for held in run.held] == [2, 3, 4]


def test_busy_waits_and_then_everything_unacknowledged_goes_again() -> None:
    client, _ = opened(spool_with(2), StreamMark(BULK, 0))
    assert numbers(client) == [1, 2]
    assert client.receive(Busy(1500), 7) == [Pause(1.5)]
    assert client.in_flight_bytes == 0
    assert numbers(client) == [1, 2]


def test_frames_of_another_session_are_ignored() -> None:
    spool = spool_with(2)
    client, _ = opened(spool, StreamMark(BULK, 0))
    numbers(client)
    assert client.receive(Ack((StreamMark(BULK, 2, digest(spool, 2)),), 1), 6) == []
    assert client.receive(End(EndReason.REVOKED), 6) == []
    assert client.phase is Phase.OPEN


def test_an_acknowledgement_of_what_was_never_sent_releases_nothing() -> None:
    client, _ = opened(spool_with(2), StreamMark(BULK, 0))
    assert client.receive(Ack((StreamMark(BULK, 2, 4711),), 1 << 20), 7) == []
    assert client.receive(Ack((StreamMark(BULK, 5, 4711),), 1 << 20), 7) == []


def test_what_the_session_before_sent_may_be_acknowledged_in_this_one() -> None:
    spool = spool_with(2)
    client, _ = opened(spool, StreamMark(BULK, 0))
    orders = client.receive(Ack((StreamMark(BULK, 2, digest(spool, 2)),), 1 << 20), 7)
    assert [type(order) for order in orders] == [Release]


def test_an_end_instead_of_a_welcome_ends_the_session() -> None:
    client = Client(spool_with(1))
    client.hello()
    end = End(EndReason.UNKNOWN_AGENT, "no such host")
    assert client.receive(end, 0) == [Ended(end)]
    assert client.take() is None


# ---------------------------------------------------------------- the collector's end


def test_records_are_taken_in_order_once() -> None:
    mark = Watermark(SPOOL_A, BULK)
    assert mark.offer(1, 1, b"one") is Verdict.ACCEPT
    assert mark.offer(1, 1, b"one") is Verdict.DUPLICATE
    assert mark.offer(3, 3, b"three") is Verdict.HOLE
    assert mark.offer(2, 2, b"two") is Verdict.ACCEPT
    assert mark.mark() == StreamMark(BULK, 0)
    pending = mark.pending()
    assert pending.committed == 2
    mark.offer(3, 3, b"three")
    mark.commit(pending)
    assert mark.mark() == pending
    assert mark.accepted == 3


def test_a_gap_that_began_before_what_is_accepted_counts_from_there() -> None:
    mark = Watermark(SPOOL_A, BULK, 4, 99)
    assert mark.offer(2, 8, b"") is Verdict.ACCEPT
    assert mark.pending() == StreamMark(BULK, 8, NO_DIGEST)
    assert mark.offer(10, 12, b"") is Verdict.HOLE


def test_a_failed_commit_forgets_what_was_accepted_in_all_sessions() -> None:
    ledger = Ledger("agent")
    mark = ledger.watermark(SPOOL_A, BULK)
    mark.offer(1, 1, b"one")
    ledger.forget()
    assert mark.offer(2, 2, b"two") is Verdict.HOLE
    assert mark.offer(1, 1, b"one") is Verdict.ACCEPT


def hello(spool: bytes = SPOOL_B, retired: tuple[RetiredSpool, ...] = (), **changes: object) -> Hello:
    known: dict[str, object] = {
        "agent_version": "1",
        "spool_id": spool,
        "run_id": b"r" * 16,
        "boot_id": "boot",
        "streams": (StreamState(CRIT), StreamState(BULK)),
        "wall_ms": 0,
        "boottime_ms": 0,
        "retired": retired,
    }
    return Hello(**(known | changes))  # type: ignore[arg-type]


def ledger_with(committed: int) -> Ledger:
    ledger = Ledger("agent")
    ledger.restore(SPOOL_A, StreamMark(BULK, committed, 5))
    return ledger


def test_the_same_spool_again_closes_nothing() -> None:
    greeting = greet(ledger_with(4), hello(SPOOL_A))
    assert greeting.closed == ()
    assert StreamMark(BULK, 4, 5) in greeting.marks


def test_a_new_spool_closes_the_old_one_with_the_count_that_the_agent_reports() -> None:
    greeting = greet(ledger_with(4), hello(retired=(RetiredSpool(SPOOL_A, BULK, 9),)))
    assert greeting.closed == (Closed(SPOOL_A, BULK, 5, 9, GapReason.SPOOL_RETIRED),)
    assert greeting.closed[0].count == 5


def test_a_spool_that_ended_where_the_collector_is_leaves_no_gap() -> None:
    assert greet(ledger_with(4), hello(retired=(RetiredSpool(SPOOL_A, BULK, 4),))).closed == ()


def test_an_old_spool_whose_end_nobody_knows_is_closed_with_an_unknown_tail() -> None:
    ledger = ledger_with(4)
    assert greet(ledger, hello()).closed == (Closed(SPOOL_A, BULK, 5, 4, GapReason.TAIL_UNKNOWN),)
    assert ledger.watermark(SPOOL_A, BULK).accepted == SPOOL_CLOSED
    assert greet(ledger, hello()).closed == (), "once is enough"


def test_a_spool_that_the_collector_never_heard_of_is_missing_as_a_whole() -> None:
    # A collector restored from a backup that is older than the spool.
    greeting = greet(Ledger("agent"), hello(retired=(RetiredSpool(SPOOL_A, BULK, 3),)))
    assert greeting.closed == (Closed(SPOOL_A, BULK, 1, 3, GapReason.SPOOL_RETIRED),)


def test_a_closed_spool_that_comes_back_has_to_fork() -> None:
    ledger = ledger_with(4)
    for mark in greet(ledger, hello()).touched:
        mark.commit(mark.pending())
    (_, bulk) = greet(ledger, hello(SPOOL_A)).marks
    assert bulk.committed == SPOOL_CLOSED
    spool = spool_with(2)
    _, orders = opened(spool, bulk)
    assert [type(order) for order in orders] == [Fork]


@pytest.mark.parametrize(
    "bad",
    [
        hello(protocol=2),
        hello(spool=b"short"),
        hello(run_id=b""),
        hello(streams=(StreamState(BULK), StreamState(BULK))),
        hello(streams=(StreamState(BULK, 5, 3, 0),)),
        hello(streams=(StreamState(BULK, 0, 3, 0),)),
        hello(streams=(StreamState(BULK, 1, 3, 4),)),
        hello(streams=(StreamState(BULK, 1, 2**63, 0),)),
        hello(retired=(RetiredSpool(SPOOL_B, BULK, 1),)),
        hello(retired=(RetiredSpool(SPOOL_A, BULK, 2**63),)),
        hello(retired=(RetiredSpool(SPOOL_A, BULK, 1),) * 65),
    ],
)
def test_a_hello_that_cannot_be_is_refused_with_its_reason(bad: Hello) -> None:
    fault = fault_of(bad)
    assert fault is not None
    assert fault[0] in (EndReason.PROTOCOL, EndReason.VERSION)
    assert fault_of(hello()) is None


def test_acknowledgements_are_saved_up_but_never_past_a_quarter_of_the_credit() -> None:
    policy = AckPolicy()
    credit, most, every_s = 1000, 4, 60.0
    assert not policy.due(0, 0, credit, most, every_s)
    policy.took(10, 0)
    assert policy.due(0, 1, credit, most, every_s), "the first of a session is acknowledged at once"
    policy.sent(0, rest=False)
    policy.took(10, 1)
    assert not policy.due(2, 1, credit, most, every_s)
    assert policy.due(61, 1, credit, most, every_s)
    policy.took(240, 3)
    assert policy.due(3, 2, credit, most, every_s)
    policy.sent(3, rest=False)
    policy.took(1, 4, urgent=True)
    assert policy.due(4, 1, credit, most, every_s)
    policy.sent(4, rest=False)
    for second in range(4):
        assert not policy.due(5 + second, second, credit, most, every_s)
        policy.took(1, 5 + second)
    assert policy.due(9, 4, credit, most, every_s)


def test_a_message_of_many_records_is_acknowledged_when_its_records_are_committed() -> None:
    policy = AckPolicy()
    credit, most, every_s = 100_000, 4, 60.0
    policy.took(1_000, 0)
    policy.sent(0.1, rest=True)
    assert not policy.due(0.2, 0, credit, most, every_s), "nothing more was committed"
    assert policy.due(0.3, 100, credit, most, every_s), "the rest of it was, and nothing need come after it"
    policy.sent(0.3, rest=False)
    assert not policy.due(120, 0, credit, most, every_s), "nothing waits any more"


# ---------------------------------------------------------------- samples of a gap


def parts_of(*sizes: int, sent: frozenset[int] = frozenset(range(1000))) -> tuple[GapPart, ...]:
    """The parts of a gap over records of these sizes, of which those in `sent` left the host."""
    parts: tuple[GapPart, ...] = ()
    for seq, size in enumerate(sizes, 1):
        parts = joined(parts, seq - 1, (GapPart(1, size),), divisible=seq - 1 in sent)
    return parts


@pytest.mark.parametrize(
    ("sizes", "count"),
    [((300,) * 50, 1), ((300, 300, 340, 300), 3), ((300, 340) * 3, 6), ((5, 0, 5), 3)],
)
def test_records_of_equal_size_share_a_part_and_every_cut_is_exact(
    sizes: tuple[int, ...], count: int
) -> None:
    parts = parts_of(*sizes)
    assert len(parts) == count
    for held in range(len(sizes)):
        assert samples_beyond(parts, sum(sizes), held) == sum(sizes[held:])


def test_records_that_never_left_the_host_need_no_parts() -> None:
    sizes = tuple(range(1, 41))
    parts = parts_of(*sizes, sent=frozenset({1, 2, 3}))
    assert len(parts) == 4
    assert [samples_beyond(parts, sum(sizes), held) for held in range(4)] == [
        sum(sizes[held:]) for held in range(4)
    ]


def test_beyond_the_parts_that_a_gap_may_have_the_rest_is_unknown() -> None:
    sizes = tuple(300 + seq % 2 for seq in range(GAP_PARTS_MAX + 50))
    parts = parts_of(*sizes)
    assert len(parts) == GAP_PARTS_MAX
    assert samples_beyond(parts, sum(sizes), GAP_PARTS_MAX) == sum(sizes[GAP_PARTS_MAX:])
    assert samples_beyond(parts, sum(sizes), GAP_PARTS_MAX + 1) is None


def test_what_was_never_sent_stays_apart_from_equal_shares_that_were() -> None:
    # Records 1..3 were sent, 4 and 5 were dropped unsent, then 6: 4 happens to be of the same size as those before.
    parts = joined((), 0, [GapPart(1, 2)], divisible=True)
    for seq in (2, 3):
        parts = joined(parts, seq - 1, [GapPart(1, 2)], divisible=True)
    parts = joined(parts, 3, [GapPart(1, 2)], divisible=True, alike=False)
    for seq, samples in ((5, 7), (6, 1)):
        parts = joined(parts, seq - 1, [GapPart(1, samples)], divisible=False)
    assert [samples_beyond(parts, 16, held) for held in range(4)] == [16, 14, 12, 10]
