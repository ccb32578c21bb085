"""statsd over real sockets: what clients send arrives, and what the kernel had no room for is counted."""

import socket
import time

import pytest

from watchbill.config import Address
from watchbill_agent.checks.check import About, Verdict
from watchbill_agent.checks.kinds.statsd import EVENT, SERVICE_CHECK, Options, Statsd


@pytest.fixture
def opened():
    checks = []

    def make(**options):
        check = Statsd(Options(**options), About("apps", 10, 10))
        checks.append(check)
        check.open()
        return check

    yield make
    for check in checks:
        check.shut()


def listen(check, seconds=0.05):
    check.listen(time.monotonic() + seconds)
    outcome = check.outcome()
    pairs = zip(outcome.samples.series, outcome.samples.values, strict=True)
    return outcome, {(one.name, *(value for _, value in one.labels)): value for one, value in pairs}


def client(check):
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.connect(("127.0.0.1", check.port))
    return made


def test_datagrams_over_udp_and_a_unix_socket_are_one_intake(opened, tmp_path):
    path = tmp_path / "statsd.sock"
    path.touch()
    path.unlink()
    check = opened(listen=Address("127.0.0.1", 0), socket=path)
    assert path.stat().st_mode & 0o777 == 0o666
    with client(check) as udp, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unix:
        unix.connect(str(path))
        udp.send(b"orders:1|c\norders:1|c|@0.5\n_e{4,4}:ping|pong|t:error")
        unix.send(b"orders:1|c")
        unix.send(b"_sc|db|2|m:no answer")
        outcome, values = listen(check)
    assert outcome.verdict is Verdict.OK
    assert values["orders_total",] == 4
    assert values["watchbill_check_statsd_datagrams_total",] == 3
    assert values["watchbill_check_statsd_lines_total",] == 5
    said = {one.kind: one.payload for one in outcome.happenings}
    assert said[EVENT] == {"title": "ping", "text": "pong", "alert_type": "error", "tags": {}}
    assert said[SERVICE_CHECK] == {"service": "db", "status": "critical", "message": "no answer", "tags": {}}
    assert listen(check, 0)[0].happenings == ()


def test_what_the_kernel_had_no_room_for_is_counted_to_the_last_datagram(opened):
    check = opened(listen=Address("127.0.0.1", 0))
    door = check._doors[0].sock
    door.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with client(check) as udp:
        for _ in range(2_000):
            udp.send(b"a:1|c")
    outcome, values = listen(check)
    assert (outcome.verdict, outcome.reason) == (Verdict.WARNING, "lost")
    assert "net.core.rmem_max" in outcome.detail
    lost = values["watchbill_check_statsd_lost_total",]
    assert lost > 0
    assert values["a_total",] + lost == 2_000
    assert listen(check, 0)[0].verdict is Verdict.OK


def test_garbage_and_too_many_series_are_warnings_with_an_example(opened):
    check = opened(listen=Address("127.0.0.1", 0), series_max=1)
    with client(check) as udp:
        udp.send(b"a:1|c\n\x1b[31m:1|c|%%")
        outcome, _ = listen(check)
        assert (outcome.verdict, outcome.reason) == (Verdict.WARNING, "garbage")
        assert "not taken: 1 of 2 lines, such as '\\x1b[31m:1|c|%%'" in outcome.detail
        udp.send(b"b:1|c")
        outcome, values = listen(check)
        assert (outcome.verdict, outcome.reason) == (Verdict.WARNING, "series-max")
        assert values["watchbill_check_statsd_dropped_total", "series-max"] == 1


def test_a_place_that_cannot_be_had_is_unknown_and_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: (_ for _ in ()).throw(KeyboardInterrupt))
    path = tmp_path / "file"
    path.write_text("precious")
    check = Statsd(Options(socket=path), About("apps", 10, 10))
    reported = []
    with pytest.raises(KeyboardInterrupt):
        check.run(reported.append)
    assert (reported[0].verdict, reported[0].reason) == (Verdict.UNKNOWN, "listen")
    assert str(path) in reported[0].detail
    assert path.read_text() == "precious"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        address = Address("127.0.0.1", taken.getsockname()[1])
        check = Statsd(Options(listen=address), About("apps", 10, 10))
        with pytest.raises(OSError, match="in use"):
            check.open()


def test_the_socket_of_another_that_lives_is_left_alone(tmp_path):
    path = tmp_path / "statsd.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        check = Statsd(Options(socket=path), About("apps", 10, 10))
        with pytest.raises(OSError, match="somebody else listens there"):
            check.open()
        check.shut()
        assert path.exists()


def test_the_socket_of_a_process_that_was_killed_is_taken_over(opened, tmp_path):
    path = tmp_path / "statsd.sock"
    left = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    left.bind(str(path))
    left.close()
    check = opened(socket=path, socket_mode="0600")
    assert path.stat().st_mode & 0o777 == 0o600
    check.shut()
    assert not path.exists()
