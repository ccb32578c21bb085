"""The processes that run a host's checks, started for real, and what becomes of it when they are killed or hang."""

import asyncio
import contextlib
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from watchbill.clock import SystemClock
from watchbill.errors import ConfigError
from watchbill_agent.checks import processes, service
from watchbill_agent.checks.check import Verdict
from watchbill_agent.checks.service import SELF_GROUP, Checks, judge
from watchbill_agent.checks.trees import Trees

pytestmark = pytest.mark.timeout(120)

PLUGIN = """#!/bin/sh
state=$(cat {state})
echo "state is $state | value=$state;;;0;9"
exit "$state"
"""
CHECKS = """
[[check]]
name = "plugin"
kind = "exec"
argv = ["{plugin}"]
interval = "1s"
timeout = "900ms"
retries = 0
app = "shop"
"""


class Host:
    """A host with checks: `events` is what was told."""

    def __init__(self, root: Path) -> None:
        self.trees = Trees(root / "etc")
        self.file = root / "etc" / "checks.d" / "a.toml"
        self.file.parent.mkdir(parents=True)
        self.state = root / "state"
        self.told = root / "var" / "checks" / ".verdicts.json"
        plugin = root / "plugin"
        plugin.write_text(PLUGIN.format(state=self.state))
        plugin.chmod(0o755)
        self.say(0)
        self.write(CHECKS.format(plugin=plugin))
        self.events: list[tuple[str, dict]] = []
        self.checks = Checks(self.trees, root / "var", "host", SystemClock(), lambda: 1000)

    def write(self, text: str) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(text)
        new.replace(self.file)

    def say(self, state: int) -> None:
        new = self.state.with_suffix(".new")
        new.write_text(str(state))
        new.replace(self.state)

    async def tell(self, kind, payload) -> None:
        self.events.append((kind, dict(payload)))

    @contextlib.asynccontextmanager
    async def running(self):
        tasks = [asyncio.create_task(self.checks.run()), asyncio.create_task(self.checks.tell(self))]
        try:
            yield self.checks
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def verdict(self, name: str = "plugin") -> Verdict | None:
        return next((one.verdict for one in self.checks.standings() if one.check == name), None)

    def children(self, doing: str) -> list[int]:
        """The processes that the child has for this."""
        every = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [
            int(pid)
            for pid in every
            if doing.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        ]

    @property
    def pid(self) -> int:
        process = self.checks._process
        return 0 if process is None else process.pid


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


async def until(seen, what):
    give_up_s = time.monotonic() + 60
    while not seen():
        assert time.monotonic() < give_up_s, what
        await asyncio.sleep(0.05)


def values(readings):
    return {
        (one.name, dict(one.labels).get("check", "")): value
        for reading in readings
        for one, value in zip(reading.layout.series, reading.values, strict=True)
    }


def ticks(checks, boottime_ms):
    return {one.group: values(one.readings) for one in checks.emissions(boottime_ms)}


def test_a_verdict_is_emitted_and_told_when_it_changes_and_at_its_pace_otherwise(host):
    async def scene():
        async with host.running() as checks:
            await until(lambda: host.verdict() is Verdict.OK, "it is well")
            first = ticks(checks, 10_000)
            assert first["checks 1000"]["probe_success", "plugin"] == 1.0
            assert first[SELF_GROUP]["watchbill_agent_checks", ""] in (0.0, 1.0)
            assert ticks(checks, 10_100) == {}
            assert "checks 1000" in ticks(checks, 11_000)
            layouts = [reading.layout for one in checks.emissions(12_000) for reading in one.readings]
            host.say(2)
            await until(lambda: host.verdict() is Verdict.CRITICAL, "it fails")
            assert ticks(checks, 12_100)["checks 1000"]["probe_success", "plugin"] == 0.0
            host.say(0)
            await until(lambda: host.verdict() is Verdict.OK, "it is well again")
            again = [reading.layout for one in checks.emissions(13_000) for reading in one.readings]
            assert again[0] is layouts[0], "names that come back are the same dictionary"
            await until(lambda: len(host.events) == 3, "each change is told")
        told = [(payload["from"], payload["to"]) for _, payload in host.events]
        assert told == [("", "ok"), ("ok", "critical"), ("critical", "ok")]
        kind, payload = host.events[1]
        assert kind == "check.changed"
        assert (payload["check"], payload["app"], payload["kind"]) == ("plugin", "shop", "exec")
        assert "state is 2" in payload["detail"]

    asyncio.run(scene())


def test_a_child_that_is_killed_is_followed_by_another_that_knows_what_was_told(host, monkeypatch):
    monkeypatch.setattr(service, "AGAIN_S_MIN", 0.1)

    async def scene():
        async with host.running() as checks:
            await until(lambda: host.verdict() is Verdict.OK, "it is well")
            await until(lambda: host.events and host.told.exists(), "which is told, and written down")
            killed = host.pid
            os.kill(killed, signal.SIGKILL)
            host.say(1)
            await until(lambda: host.verdict() is Verdict.WARNING, "another one looks")
            await until(lambda: len(host.events) == 2, "and tells")
            assert host.pid not in (0, killed)
            await until(lambda: checks.counts.child_restarts == 1, "which is counted")
        assert [payload["from"] for _, payload in host.events] == ["", "ok"]

    asyncio.run(scene())


def test_a_child_that_hangs_is_killed_and_its_checks_say_nothing_until_another_looks(host, monkeypatch):
    monkeypatch.setattr(service, "AGAIN_S_MIN", 0.1)
    monkeypatch.setattr(service, "SILENT_S_MAX", 5.0)
    monkeypatch.setattr(service, "FRESH_S_MORE", 0.0)

    async def scene():
        async with host.running() as checks:
            await until(lambda: host.verdict() is Verdict.OK, "it is well")
            ticks(checks, 1_000)
            stopped = host.pid
            os.kill(stopped, signal.SIGSTOP)
            ended = []
            await until(
                lambda: ended.extend(one for one in checks.emissions(2_000) if not one.readings) or ended,
                "what nobody looks at ends",
            )
            assert ended[0].group == "checks 1000"
            await until(lambda: host.pid not in (0, stopped), "it is killed")
            await until(lambda: host.verdict() is Verdict.OK, "another one looks")
        with pytest.raises(ProcessLookupError):
            os.kill(stopped, 0)

    asyncio.run(scene())


def test_a_daemon_that_was_stopped_itself_does_not_call_its_child_hung(tmp_path, monkeypatch):
    monkeypatch.setattr(service, "SILENT_S_MAX", 0.5)

    async def scene():
        trees = Trees(tmp_path, tmp_path, tmp_path, tmp_path)
        checks = Checks(trees, tmp_path, "h", SystemClock(), lambda: 1_000)
        process = await processes.start(["sleep", "1007"])
        silence = asyncio.create_task(checks._end_when_silent(process))
        await asyncio.sleep(0)
        time.sleep(0.7)  # noqa: ASYNC251 - The whole daemon stands still.
        for _ in range(3):
            await asyncio.sleep(0)
        assert not silence.done()
        assert process.returncode is None
        await silence
        assert process.returncode == -signal.SIGKILL

    asyncio.run(scene())


def test_a_reload_takes_up_what_is_new_keeps_what_is_the_same_and_ends_what_is_gone(host):
    more = (
        '\n[[check]]\nname = "more"\nkind = "exec"\nargv = ["/bin/true"]\ninterval = "1s"\ntimeout = "1s"\n'
    )

    async def scene():
        async with host.running() as checks:
            await until(lambda: host.verdict() is Verdict.OK, "it is well")
            before = host.file.read_text()
            host.write(before + more)
            checks.reload()
            await until(lambda: host.verdict("more") is Verdict.OK, "the new one is looked at")
            since_ms = {one.check: one.since_ms for one in checks.standings()}
            ticks(checks, 1_000)
            host.write("[[check]]\nname = 7\n")
            checks.reload()
            host.write(more)
            checks.reload()
            await until(lambda: host.verdict() is None, "the old one is over")
            left = ticks(checks, 2_000)["checks 1000"]
            assert {check for _, check in left} == {"more"}
            assert {one.check: one.since_ms for one in checks.standings()} == {"more": since_ms["more"]}
            host.write("")
            checks.reload()
            await until(lambda: not checks.standings(), "nothing is left")
            assert [one.readings for one in checks.emissions(3_000)] == [()]

    asyncio.run(scene())


def test_what_hangs_is_killed_at_its_deadline_and_delays_nothing_else(host):
    host.write(
        host.file.read_text()
        + f'\n[[check]]\nname = "mine"\nkind = "log"\nfiles = ["{host.state}"]\nformat = "common"\n'
        + 'interval = "1s"\ntimeout = "1s"\nretries = 0\n'
    )

    async def scene():
        async with host.running() as checks:
            await until(lambda: host.verdict("mine") is Verdict.OK, "it is looked at")
            (worker,) = host.children("look")
            os.kill(worker, signal.SIGSTOP)
            await until(lambda: host.verdict("mine") is Verdict.CRITICAL, "it hangs")
            (found,) = [one for one in checks.standings() if one.check == "mine"]
            assert found.reason == "timeout"
            await until(lambda: host.verdict("mine") is Verdict.OK, "another process looks")
            await until(lambda: checks.counts.killed == 1, "which is counted")
            with pytest.raises(ProcessLookupError):
                os.kill(worker, 0)
            assert checks.counts.child_restarts == 0

    asyncio.run(scene())


def test_a_ping_that_comes_before_the_child_is_there_is_judged_by_it(host):
    host.write(
        '[[check]]\nname = "cron"\nkind = "heartbeat"\nevery = "1h"\ninterval = "1s"\ntimeout = "1s"\n'
    )
    judged = judge(host.trees)
    assert (judged.checks, judged.pinged) == (("cron",), ("cron",))
    now_ms = time.time_ns() // 1_000_000
    host.checks.pinged = frozenset(judged.pinged)
    assert host.checks.ping("cron", "success", None, "", now_ms)
    assert not host.checks.ping("other", "success", None, "", now_ms)

    def pinged_s():
        found = values(host.checks.newest())
        return found.get(("watchbill_heartbeat_last_ping_timestamp_seconds", "cron"))

    async def scene():
        async with host.running():
            await until(lambda: pinged_s() == pytest.approx(now_ms / 1000), "it was told")

    asyncio.run(scene())


def test_a_listener_has_a_process_of_its_own_that_is_started_again_when_it_dies(host, monkeypatch):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    host.write(
        f'[[check]]\nname = "apps"\nkind = "statsd"\nlisten = "127.0.0.1:{port}"\ninterval = "1s"\ntimeout = "1s"\n'
    )

    def count():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"orders:1|c", ("127.0.0.1", port))
        found = values(host.checks.newest())
        return found.get(("orders_total", "apps"), 0.0)

    async def scene():
        async with host.running():
            await until(lambda: count() > 0, "what is said is counted")
            (child,) = host.children("listen")
            os.kill(child, signal.SIGKILL)
            await until(lambda: host.verdict("apps") is Verdict.UNKNOWN, "its end is not silence")
            await until(lambda: host.verdict("apps") is Verdict.OK, "another one listens")
            await until(lambda: count() > 0, "and counts")

    asyncio.run(scene())


def test_what_is_wrong_in_the_files_is_told_with_its_place_before_anything_runs(host):
    host.write(
        '[[check]]\nname = "a b"\nkind = "exec"\n[[check]]\nname = "x"\nkind = "exce"\n'
        '[[check]]\nname = "y"\nkind = "exec"\nargv = ["relative"]\nbehind = ["z", "y"]\ntimeout = "2m"\n'
        '[[check]]\nname = "y"\nkind = "statsd"\nprot = 1\n'
        '[[check]]\nname = "c d"\nkind = "exce"\n'
    )
    with pytest.raises(ConfigError) as caught:
        judge(host.trees)
    told = [(problem.line, problem.key) for problem in caught.value.problems]
    assert all(problem.file == str(host.file) for problem in caught.value.problems)
    assert (2, "check[0].name") in told
    assert (6, "check[1].kind") in told
    assert (10, "check[2].argv[0]") in told
    assert (12, "check[2].timeout") in told
    assert (14, "check[3].name") in told
    assert (16, "check[3].prot") in told
    assert {(18, "check[4].name"), (19, "check[4].kind")} <= set(told)


def test_a_dependency_that_there_is_not_or_that_is_the_check_itself_is_told(host):
    host.write(
        '[[check]]\nname = "y"\nkind = "exec"\nargv = ["/bin/true"]\nbehind = ["z", "y", "db1/", "db1/pg"]\n'
    )
    with pytest.raises(ConfigError) as caught:
        judge(host.trees)
    told = [(problem.line, problem.key, problem.got) for problem in caught.value.problems]
    assert told == [(5, "check[0].behind", '"z"'), (5, "check[0].behind", '"y"')]
