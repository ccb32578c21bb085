"""What a host knows of the true time when its clock is wrong."""

import json
import ssl
from dataclasses import dataclass
from pathlib import Path

import nacl.signing
import pytest

from watchbill.clock import ManualClock
from watchbill.signed_time import ANSWER_S_MAX, TimeRefused, Window, check_time, time_message
from watchbill.tls_dates import Validity, ended, is_about_dates
from watchbill_agent.true_time import FILE_NAME, FLOOR_SLACK_MS, OLDEST_MS, SAVE_EVERY_MS, TrueTime

NOW_MS = 1_790_000_000_000
YEAR_MS = 365 * 86_400_000
KEY = nacl.signing.SigningKey(b"k" * 32)
PUBLIC = bytes(KEY.verify_key)
NONCE = b"n" * 32


@dataclass
class Identity:
    """What of an identity is asked for."""

    collector_envelope_key: bytes = PUBLIC
    site: str = "main"


def in_1970() -> ManualClock:
    return ManualClock(60_000, 50_000)


def told(time: TrueTime, said_ms: int, took_s: float = 0.0, clock: ManualClock | None = None) -> None:
    asked_ms = time.boottime_ms()
    if clock is not None:
        clock.advance(took_s)
    signature = KEY.sign(time_message("main", NONCE, said_ms)).signature
    time.told(Identity(), NONCE, said_ms, signature, asked_ms)  # type: ignore[arg-type]


def refused(time: TrueTime, said_ms: int, took_s: float = 0.0, clock: ManualClock | None = None) -> str:
    with pytest.raises(TimeRefused) as caught:
        told(time, said_ms, took_s, clock)
    return caught.value.reason


def test_before_anything_was_told_time_is_the_clocks_but_never_before_the_floor(tmp_path: Path) -> None:
    clock = in_1970()
    assert TrueTime(tmp_path, clock).wall_ms() == OLDEST_MS
    assert TrueTime(tmp_path, clock, NOW_MS).wall_ms() == NOW_MS
    clock.set_wall_ms(NOW_MS + 5)
    assert TrueTime(tmp_path, clock, NOW_MS).wall_ms() == NOW_MS + 5


def test_what_was_told_goes_on_with_the_boot_time_and_ends_when_the_clock_is_set(tmp_path: Path) -> None:
    clock, heard = in_1970(), []
    time = TrueTime(tmp_path, clock, learned=lambda: heard.append(time.wall_ms()))
    time.suspect()
    assert not time.bypass
    told(time, NOW_MS)
    assert (time.bypass, heard) == (True, [NOW_MS])
    clock.advance(3_600)
    assert abs(time.wall_ms() - NOW_MS - 3_600_000) <= 1_000
    told(time, NOW_MS + 3_600_000)
    assert len(heard) == 1, "only what changes something is told on"
    clock.set_wall_ms(NOW_MS + 7_200_000)
    assert not time.bypass, "somebody set the date: the clock is tried again"
    assert time.wall_ms() == NOW_MS + 7_200_000


def test_a_clock_that_is_right_is_not_blamed_for_a_certificate_that_has_ended(tmp_path: Path) -> None:
    clock = ManualClock(NOW_MS, 1)
    time = TrueTime(tmp_path, clock)
    time.suspect()
    told(time, NOW_MS + 500)
    assert not time.bypass
    with pytest.raises(TimeRefused, match="has ended"):
        time.judge([Validity(0, NOW_MS)])


@pytest.mark.parametrize("ahead_ms", [-YEAR_MS, -FLOOR_SLACK_MS - 1])
def test_time_before_the_newest_that_was_ever_seen_is_not_believed(tmp_path: Path, ahead_ms: int) -> None:
    before = TrueTime(tmp_path, ManualClock(NOW_MS))
    before.saw(NOW_MS)
    before.save()
    time = TrueTime(tmp_path, in_1970())
    time.suspect()
    assert refused(time, NOW_MS + ahead_ms) == "floor"
    assert (time.known, time.bypass, time.refused) == (False, False, {"floor": 1})
    told(time, NOW_MS - FLOOR_SLACK_MS)
    assert time.floor_ms == NOW_MS, "a clock that was put back a little does not lower it"


def test_a_collector_that_was_years_ahead_once_shuts_nobody_out_whose_clock_is_right(tmp_path: Path) -> None:
    clock = ManualClock(NOW_MS, 1)
    time = TrueTime(tmp_path, clock, NOW_MS - 1_000)
    time.suspect()
    told(time, NOW_MS + 10 * YEAR_MS)
    assert time.bypass
    time.met(NOW_MS + 10 * YEAR_MS)
    time.save()
    with pytest.raises(TimeRefused, match="has ended"):
        time.judge([Validity(0, NOW_MS + YEAR_MS)])
    assert not time.bypass, "this host's clock is tried again"
    assert time.wall_ms() == NOW_MS + 10 * YEAR_MS
    time.met(NOW_MS + 10)
    assert (time.wall_ms(), time.save_due) == (NOW_MS + 10, True)
    time.save()
    assert TrueTime(tmp_path, in_1970()).floor_ms == NOW_MS + 10


@pytest.mark.parametrize(("clock_ms", "said_ms"), [(NOW_MS, NOW_MS - YEAR_MS), (60_000, 60_000)])
def test_a_collector_alone_and_a_clock_that_is_wrong_lower_no_floor(
    tmp_path: Path, clock_ms: int, said_ms: int
) -> None:
    time = TrueTime(tmp_path, ManualClock(clock_ms), NOW_MS - 2 * YEAR_MS)
    time.saw(NOW_MS)
    time.met(said_ms)
    assert time.floor_ms == NOW_MS


def test_a_clock_before_its_own_certificate_is_not_tried_again(tmp_path: Path) -> None:
    time = TrueTime(tmp_path, in_1970(), NOW_MS - YEAR_MS)
    time.suspect()
    told(time, NOW_MS)
    with pytest.raises(TimeRefused, match="has ended"):
        time.judge([Validity(0, NOW_MS - 1)])
    assert time.bypass


def test_the_floor_is_written_once_a_day_and_at_the_end_and_read_back(tmp_path: Path) -> None:
    time, path = TrueTime(tmp_path, ManualClock(NOW_MS)), tmp_path / FILE_NAME
    time.saw(NOW_MS)
    assert time.save_due
    time.save()
    time.saw(NOW_MS + SAVE_EVERY_MS - 1)
    assert not time.save_due
    assert json.loads(path.read_text()) == {"newest_ms": NOW_MS}
    time.saw(NOW_MS + SAVE_EVERY_MS)
    assert time.save_due
    time.save()
    time.saw(NOW_MS + SAVE_EVERY_MS + 9)
    time.saw(NOW_MS)
    assert not time.save_due
    time.save()
    assert TrueTime(tmp_path, in_1970()).floor_ms == NOW_MS + SAVE_EVERY_MS + 9


@pytest.mark.parametrize(
    "content", ["", "null", "[]", "{}", '{"newest_ms": "x"}', '{"newest_ms": 1e99}', "\x00"]
)
def test_a_damaged_floor_is_logged_and_stops_nothing(tmp_path: Path, content: str, caplog: object) -> None:
    (tmp_path / FILE_NAME).write_text(content)
    assert TrueTime(tmp_path, in_1970()).floor_ms == OLDEST_MS
    assert "cannot be read" in caplog.text  # type: ignore[attr-defined]


def test_an_answer_that_was_held_back_is_none_and_a_slow_one_widens_what_must_hold(tmp_path: Path) -> None:
    clock = in_1970()
    time = TrueTime(tmp_path, clock)
    time.suspect()
    assert refused(time, NOW_MS, ANSWER_S_MAX + 0.1, clock) == "late"
    told(time, NOW_MS, 10.0, clock)
    assert time.window() == Window(NOW_MS, NOW_MS + 10_000)
    with pytest.raises(TimeRefused, match="has ended"):
        time.judge([Validity(0, NOW_MS + 10_000)])
    with pytest.raises(TimeRefused, match="not valid yet"):
        time.judge([Validity(NOW_MS + 1, 2 * NOW_MS)])
    time.judge([Validity(NOW_MS, NOW_MS + 10_001)])
    clock.advance(1_000)
    assert time.window().latest_ms - time.window().earliest_ms == 10_000 + 2 * 100, "clocks drift"


def test_only_the_collectors_signature_over_this_question_is_believed(tmp_path: Path) -> None:
    time = TrueTime(tmp_path, in_1970())
    right = KEY.sign(time_message("main", NONCE, NOW_MS)).signature
    check_time(PUBLIC, "main", NONCE, NOW_MS, right)
    other = nacl.signing.SigningKey(b"o" * 32)
    forged = other.sign(time_message("main", NONCE, NOW_MS)).signature
    for key, site, nonce, wall_ms, signature in (
        (PUBLIC, "main", b"m" * 32, NOW_MS, right),
        (PUBLIC, "main", NONCE, NOW_MS + 1, right),
        (PUBLIC, "other", NONCE, NOW_MS, right),
        (bytes(other.verify_key), "main", NONCE, NOW_MS, right),
        (PUBLIC, "main", NONCE, NOW_MS, forged),
        (PUBLIC, "main", NONCE, NOW_MS, b""),
        (b"", "main", NONCE, NOW_MS, right),
        (PUBLIC, "main", NONCE, -1, right),
        (PUBLIC, "main", NONCE, 2**62, right),
    ):
        with pytest.raises(TimeRefused):
            check_time(key, site, nonce, wall_ms, signature)
        identity = Identity(key, site)
        with pytest.raises(TimeRefused):
            time.told(identity, nonce, wall_ms, signature, time.boottime_ms())  # type: ignore[arg-type]
    assert not time.known
    assert time.refused == {"signature": 7, "range": 2}


def test_a_chain_holds_as_long_as_all_of_it_does() -> None:
    window = Window(10, 20)
    assert ended([Validity(0, 21), Validity(10, 99)], window) is None
    assert ended([Validity(0, 21), Validity(11, 99, "root")], window) == Validity(11, 99, "root")
    assert ended([Validity(0, 20), Validity(0, 99)], window) == Validity(0, 20)
    assert not is_about_dates(ssl.SSLError())
    assert not is_about_dates(None)
