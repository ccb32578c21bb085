"""Access logs that a real nginx writes and rotates, and a journal that a real journald keeps."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from watchbill_agent import journal
from watchbill_agent.checks import wire
from watchbill_agent.checks.check import About, Failed, Outcome, Verdict
from watchbill_agent.checks.kinds.log import Log, Options, PathOptions
from watchbill_agent.checks.log_patterns import PatternOptions
from watchbill_agent.checks.workers import Workers

WAIT_S = 20.0
JOURNALD = "/lib/systemd/systemd-journald"


def until(what: str, holds: Any) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.01)


class Looks:
    """Looks of one check, each by a process of its own that knows what the last one remembered."""

    def __init__(self, **options: Any) -> None:
        self.options = Options(**options)
        self.memory: Mapping[str, Any] | None = None

    def look(self, *, killed: bool = False) -> Outcome:
        check = Log(self.options, About("log", 30.0, 10.0))
        if self.memory is not None:
            check.recall(json.loads(json.dumps(self.memory)))
        try:
            return check.look(10.0)
        finally:
            if not killed:
                self.memory = check.memory()


def values(outcome: Outcome, name: str) -> dict[tuple[str, ...], float]:
    """By the values of the labels, in the order of their names."""
    samples = outcome.samples
    return {
        tuple(value for _, value in series.labels): number
        for series, number in zip(samples.series, samples.values, strict=True)
        if series.name == name
    }


class Nginx:
    """Answers any code that it is asked for, and writes three logs."""

    def __init__(self, place: Path) -> None:
        self.place = place
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = place / "access.log"
        temporary = "".join(
            f"{name}_temp_path {place}/{name};"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;" if os.geteuid() == 0 else ""
        (place / "nginx.conf").write_text(
            f"daemon off; {user} pid {place}/pid; error_log {place}/error.log; worker_processes 1;"
            f"events {{}} http {{ {temporary}"
            'log_format timed \'$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent '
            '"$http_referer" "$http_user_agent" $request_time\';'
            'log_format json escape=json \'{"status": $status, "request_method": "$request_method", '
            '"request_uri": "$request_uri", "request_time": $request_time, "body_bytes_sent": $body_bytes_sent, '
            '"remote_addr": "$remote_addr", "agent": "$http_user_agent"}\';'
            f"access_log {self.log} timed; access_log {place}/access.json json;"
            f"server {{ listen 127.0.0.1:{self.port};"
            'location / { return 200 "fine"; } location /missing { return 404; } location /broken { return 503; } } }'
        )
        self.process = subprocess.Popen(
            ["nginx", "-p", str(place), "-c", str(place / "nginx.conf")], stderr=subprocess.DEVNULL
        )
        until("nginx answers", self._answers)
        self.process_id = int((place / "pid").read_text())

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def ask(self, path: str, times: int = 1, agent: str = "test") -> None:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers={"User-Agent": agent})
        for _ in range(times):
            with (
                contextlib.suppress(urllib.error.HTTPError),
                urllib.request.urlopen(request, timeout=10) as answer,
            ):
                answer.read()

    def raw(self, content: bytes) -> None:
        with socket.create_connection(("127.0.0.1", self.port), 10) as connection:
            connection.sendall(content)
            connection.settimeout(10)
            while connection.recv(4096):
                pass

    def rotate(self) -> None:
        """As logrotate does it with `create` and a signal to open the file anew."""
        for number in range(8, -1, -1):
            older = self.log.with_name(f"access.log.{number}") if number else self.log
            if older.exists():
                older.rename(self.log.with_name(f"access.log.{number + 1}"))
        os.kill(self.process_id, signal.SIGUSR1)
        until("nginx opened its log anew", self.log.exists)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(WAIT_S)


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    server = Nginx(tmp_path_factory.mktemp("nginx"))
    yield server
    server.close()


def requests(outcome: Outcome) -> dict[tuple[str, ...], float]:
    return values(outcome, "http_requests_total")


@pytest.mark.real("nginx")
def test_requests_errors_and_times_are_what_nginx_answered(nginx: Nginx) -> None:
    looks = Looks(files=[f"{nginx.log}*"], format="combined_time")
    assert looks.look().verdict is Verdict.OK
    nginx.ask("/shop", 5)
    nginx.ask("/missing", 2)
    nginx.ask("/broken", 3, agent='hostile " \\" \\x22 agent')
    nginx.raw(b"\x16\x03\x01 is no request\r\n\r\n")
    until("all is logged", lambda: nginx.log.read_bytes().count(b"\n") >= 11)
    outcome = looks.look()
    assert outcome.verdict is Verdict.OK
    assert requests(outcome) == {("200", "GET"): 5, ("404", "GET"): 2, ("503", "GET"): 3, ("400",): 1}
    assert values(outcome, "http_request_duration_seconds_count") == {(): 11}
    assert values(outcome, "http_clients_estimate") == {(): 1}
    assert values(outcome, "http_response_bytes_total")[()] > 20
    assert values(outcome, "watchbill_log_lines_unparsed_total") == {(): 0}


@pytest.mark.real("nginx")
def test_every_request_is_counted_once_over_rotations_and_killed_looks(nginx: Nginx) -> None:
    looks = Looks(files=[str(nginx.log)], format="combined_time")
    json_looks = Looks(files=[str(nginx.log.with_name("access.json"))], format="json")
    looks.look()
    json_looks.look()
    for number in range(4):
        nginx.ask("/shop", 7)
        if number % 2:
            looks.look(killed=True)
        nginx.rotate()
        nginx.ask("/broken", 3)
        if number > 1:
            looks.look()
    outcome = looks.look()
    assert requests(outcome) == {("200", "GET"): 28, ("503", "GET"): 12}
    assert requests(json_looks.look()) == requests(outcome)
    assert values(outcome, "watchbill_log_lost_bytes_total") == {(): 0}
    assert values(looks.look(), "watchbill_log_backlog_bytes") == {(): 0}


@pytest.mark.real("nginx")
def test_requests_are_grouped_by_path_within_bounds(nginx: Nginx) -> None:
    paths = [PathOptions(name="shop", regex="^/shop"), PathOptions(name="slow", regex="(a+)+$")]
    looks = Looks(files=[str(nginx.log)], format="combined_time", paths=paths)
    looks.look()
    nginx.ask("/shop/1", 2)
    nginx.ask("/elsewhere/1")
    until("all is logged", lambda: b"/elsewhere/1 " in nginx.log.read_bytes())
    outcome = looks.look()
    assert requests(outcome) == {("200", "GET", "shop"): 2, ("200", "GET", "other"): 1}
    assert values(outcome, "http_request_duration_seconds_count") == {("other",): 1, ("shop",): 2}


def test_hostile_lines_are_counted_and_cost_the_good_ones_nothing(tmp_path: Path) -> None:
    good = b'1.2.3.4 - - [01/Jan/1970:00:00:00 +0000] "GET / HTTP/1.1" 200 5 "-" "a"\n'
    log = tmp_path / "log"
    looks = Looks(files=[str(log)], format="combined", from_start=True)
    log.write_bytes(good + b"x" * 1_000_000 + b"\n" + good + b"\xff\xfe\n" + bytes(5_000) + good + good[:30])
    outcome = looks.look()
    assert requests(outcome) == {("200", "GET"): 3}
    assert values(outcome, "watchbill_log_lines_unparsed_total") == {(): 1}
    assert values(outcome, "watchbill_log_lines_oversized_total") == {(): 1}
    with log.open("ab") as file:
        file.write(good[30:])
    assert requests(looks.look()) == {("200", "GET"): 4}


async def test_a_look_that_is_killed_for_real_is_made_again_from_the_same_place(tmp_path: Path) -> None:
    """The process that looks is killed while it reads; what the next one says is as if nothing had been."""
    log = tmp_path / "log"
    log.write_bytes(b"200 12\n" * 300_000)
    values_ = {"files": [str(log)], "format": "$status $bytes_sent"}
    trees = (str(tmp_path), "/proc", "/sys", "/")
    workers = Workers()

    def question(memory: dict[str, Any] | None) -> wire.Question:
        return wire.Question("log", "log", {**values_, "from_start": True}, 30.0, 20.0, trees, 20.0, memory)

    def counted(answer: wire.Answer) -> list[float]:
        table = answer.result.table
        numbers = memoryview(table.values).cast("d")
        return [
            n for (name, _), n in zip(table.series, numbers, strict=True) if name == "http_requests_total"
        ]

    try:
        first = await workers.look(question(None))
        assert counted(first) == [300_000]
        with log.open("ab") as file:
            file.write(b"500 12\n" * 300_000)
        looking = asyncio.create_task(workers.look(question(first.memory)))
        await asyncio.sleep(0.03)
        (process,) = workers._busy
        process.kill()
        killed = await looking
        assert killed.result.reason == "check-failed"
        again = await workers.look(question(killed.memory))
        assert counted(again) == [300_000, 300_000]
        assert counted(await workers.look(question(again.memory))) == [300_000, 300_000]
    finally:
        await workers.close()


def test_a_look_reads_so_much_and_the_next_one_the_rest(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"200 12\n" * 200_000)
    looks = Looks(files=[str(log)], format="$status $bytes_sent", from_start=True, look_bytes=1024 * 1024)
    outcome = looks.look()
    (read,) = requests(outcome).values()
    assert values(outcome, "watchbill_log_backlog_bytes") == {(): 7 * (200_000 - read)}
    for _ in range(2):
        outcome = looks.look()
    assert requests(outcome) == {("200",): 200_000}


@pytest.mark.parametrize(
    ("content", "verdict", "reason"),
    [
        (None, Verdict.UNKNOWN, "no-file"),
        (b"something else\n" * 20, Verdict.UNKNOWN, "format-mismatch"),
        (b"", Verdict.OK, ""),
    ],
)
def test_what_cannot_be_judged_is_unknown(
    tmp_path: Path, content: bytes | None, verdict: Verdict, reason: str
) -> None:
    if content is not None:
        (tmp_path / "log").write_bytes(content)
    outcome = Looks(files=[str(tmp_path / "log")], format="combined", from_start=True).look()
    assert (outcome.verdict, outcome.reason) == (verdict, reason)


def test_lines_that_match_fail_the_check_as_the_pattern_says(tmp_path: Path) -> None:
    log = tmp_path / "log"
    patterns = [
        PatternOptions(name="slow", regex=r"took (\d+) ms", value="gauge"),
        PatternOptions(name="oom", regex="Out of memory", severity="major", fail_if=2),
    ]
    looks = Looks(files=[str(log)], patterns=patterns, from_start=True)
    log.write_bytes(b"took 5 ms\nOut of memory\ntook 17 ms\n")
    assert looks.look().verdict is Verdict.OK
    with log.open("ab") as file:
        file.write(b"Out of memory: killed\n")
    outcome = looks.look()
    assert (outcome.verdict, outcome.reason, outcome.detail) == (
        Verdict.CRITICAL,
        "pattern",
        "oom: 2 lines in 300 s",
    )
    assert values(outcome, "log_lines_matched_total") == {("oom", "major"): 2, ("slow", "minor"): 2}
    assert values(outcome, "log_pattern_value") == {("slow",): 17}


@pytest.fixture(scope="module")
def journald(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A journald in mounts of its own; PATH has journalctl and systemd-cat as they are in there."""
    if os.geteuid() != 0:
        pytest.skip("needs root, for mounts of its own")
    place = tmp_path_factory.mktemp("journald")
    script = f"mount -t tmpfs none /run && mkdir -p /run/systemd/journal /run/log/journal && exec {JOURNALD}"
    process = subprocess.Popen(["unshare", "-m", "sh", "-c", script], stderr=subprocess.DEVNULL)
    for name in ("journalctl", "systemd-cat"):
        inside = f'#!/bin/sh\nexec nsenter -t {process.pid} -m {shutil.which(name)} "$@"\n'
        (place / name).write_text(inside)
        (place / name).chmod(0o755)

    def answers() -> bool:
        done = subprocess.run(
            [place / "systemd-cat", "-t", "shop", "echo", "ready"], check=False, capture_output=True
        )
        found = subprocess.run([place / "journalctl", "-q", "-t", "shop"], check=False, capture_output=True)
        return done.returncode == 0 and b"ready" in found.stdout

    try:
        until("journald answers", answers)
        yield place
    finally:
        process.kill()
        process.wait()


@pytest.mark.real(JOURNALD, "nsenter", "systemd-cat", "journalctl")
def test_the_journal_is_read_from_where_the_last_look_ended(
    journald: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{journald}:{os.environ['PATH']}")

    def say(*lines: bytes) -> None:
        subprocess.run([journald / "systemd-cat", "-t", "shop"], input=b"\n".join(lines) + b"\n", check=True)

    def messages(cursor: str) -> list[bytes]:
        found = journal.entries_after(cursor, ["--identifier=shop"], 10, 1 << 20)
        return [journal.message_of(entry) for entry in found.entries]

    cursor = journal.end_of_journal(10)
    assert cursor
    long = b"x" * 20_000
    say(b"one", b"\xff\x01 binary", long)
    until("all is in the journal", lambda: len(messages(cursor)) == 3)
    assert messages(cursor)[:2] == [b"one", b"\xff\x01 binary"]
    assert messages(cursor)[2] == long
    found = journal.entries_after(cursor, ["--identifier=shop"], 10, 1)
    assert found.behind
    assert messages(found.cursor) == messages(cursor)[len(found.entries) :]
    # The check asks for units; what belongs to none of them is not read.
    looks = Looks(journal=["shop.service"], patterns=[PatternOptions(name="one", regex="one")])
    looks.look()
    say(b"one")
    outcome = looks.look()
    assert outcome.verdict is Verdict.OK
    assert values(outcome, "log_lines_matched_total") == {("one", "minor"): 0}


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'No journal files were opened due to insufficient permissions.' >&2; exit 1", "not-permitted"),
        (
            "echo 'Hint: You are currently not seeing messages from other users and the system.' >&2",
            "not-permitted",
        ),
        ("echo 'Failed to seek to cursor: Invalid argument' >&2; exit 1", "journal-failed"),
        (None, "not-installed"),
    ],
)
def test_a_journal_that_cannot_be_read_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, reason: str
) -> None:
    if script is not None:
        (tmp_path / "journalctl").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "journalctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}" if script is None else f"{tmp_path}:{os.environ['PATH']}")
    looks = Looks(journal=["shop.service"], patterns=[PatternOptions(name="one", regex="one")])
    with pytest.raises(Failed) as failed:
        looks.look()
    assert (failed.value.verdict, failed.value.reason) == (Verdict.UNKNOWN, reason)


def test_a_journalctl_that_hangs_or_never_ends_is_killed_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "journalctl"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    program.write_text("#!/bin/sh\necho $$ > " + str(tmp_path / "pid") + "\nexec sleep 600\n")
    program.chmod(0o755)
    assert journal.entries_after("x", [], 0.5, 1 << 20).behind
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()
    program.write_text("#!/bin/sh\nexec cat /dev/zero\n")
    found = journal.entries_after("x", [], 5, 4 << 20)
    assert (found.behind, found.cursor, found.oversized) == (True, "x", 1)
