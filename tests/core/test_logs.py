"""Log lines: bounded, harmless, and not too many."""

import io
import logging
import os
import tempfile

import pytest

from watchbill import logs


class Time:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def out():
    """What was logged: restores the logging of the test run."""
    root = logging.getLogger()
    handlers, level, shout = root.handlers[:], root.level, logging.raiseExceptions
    stream = io.StringIO()
    stream.time = Time()
    stream.limit = logs.setup(stream=stream, env={}, monotonic_s=stream.time)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.raiseExceptions = shout


def lines(stream) -> list[str]:
    """Without the time."""
    return [line.partition("Z ")[2] for line in stream.getvalue().splitlines()]


log = logging.getLogger("watchbill_agent.sender")


def test_a_line_has_its_fields_as_keys_and_values(out):
    log.info("sent", extra=logs.fields(records=3, after_s=0.123456789, to="a b", why='say "x"'))
    assert lines(out) == ['INFO agent.sender: sent records=3 after_s=0.123457 to="a b" why="say \\"x\\""']


def test_nothing_from_outside_writes_a_second_line_or_moves_the_cursor(out):
    log.info("host %s", "a\nFAKE line\r\x1b[2J\u202e\u2028\x00", extra=logs.fields(name="x\ny"))
    assert lines(out) == [
        'INFO agent.sender: host a\\x0aFAKE line\\x0d\\x1b[2J\\u202e\\u2028\\x00 name="x\\x0ay"'
    ]


def test_a_line_is_at_most_4_kib_and_cut_between_characters(out):
    log.info("%s", "é" * 10_000)
    (line,) = out.getvalue().splitlines()
    assert len(line.encode()) <= logs.LINE_BYTES_MAX
    assert line.endswith("é…")


def test_surrogates_and_wrong_holes_do_not_lose_the_line(out):
    log.info("name %s", "a\udcff")
    log.info("%d hosts", "many")
    assert lines(out) == ["INFO agent.sender: name a\\udcff", "INFO agent.sender: %d hosts ('many',)"]


def test_a_traceback_is_lines_of_its_own(out):
    try:
        raise ValueError("a\nb")
    except ValueError:
        log.exception("failed")
    text = lines(out)
    assert text[0] == "ERROR agent.sender: failed"
    assert text[1] == "ERROR Traceback (most recent call last):"
    assert text[-2:] == ["ERROR ValueError: a", "ERROR b"]


def test_under_the_journal_lines_carry_priorities_and_no_time():
    with tempfile.TemporaryFile("w+") as stream:
        status = os.fstat(stream.fileno())
        env = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert logs._is_journal(stream, env)
        assert not logs._is_journal(stream, {"JOURNAL_STREAM": "1:1"})
        assert not logs._is_journal(stream, {"JOURNAL_STREAM": "garbage"})
        assert not logs._is_journal(io.StringIO(), env)
    formatter = logs.LineFormatter(journal=True)
    for level, prefix in ((10, "<7>"), (20, "<6>"), (30, "<4>"), (40, "<3>"), (50, "<2>")):
        record = logging.LogRecord("x", level, "", 0, "m", None, None)
        assert formatter.format(record) == f"{prefix}x: m"


def test_a_storm_becomes_a_few_lines_and_a_count(out):
    for host in range(1_000):
        log.warning("refused %s", host)
    log.warning("something else")
    assert len(lines(out)) == logs.BURST_LINES + 1
    out.time.now_s = logs.REFILL_S
    log.warning("refused %s", "again")
    assert lines(out)[-1] == "WARNING agent.sender: refused again suppressed=990"
    assert out.limit.suppressed_total == 990


def test_the_number_of_buckets_is_bounded(out):
    for kind in range(logs.KINDS_MAX + 100):
        log.info(f"kind {kind}")
    assert len(out.limit._buckets) == logs.KINDS_MAX


def test_going_away_and_coming_back_are_said_once_each(out):
    presence = logs.Presence(log, "collector", out.time)
    presence.found()
    for _ in range(50):
        presence.lost("connection refused", address="c:7443")
    out.time.now_s = 3600.0
    presence.found(session=7)
    presence.found()
    assert lines(out) == [
        'WARNING agent.sender: collector went away reason="connection refused" address=c:7443',
        "WARNING agent.sender: collector came back after_s=3600 tries=50 session=7",
    ]
