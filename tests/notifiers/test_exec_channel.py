"""Programs that are started for a notice."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from watchbill.config import Duration
from watchbill_collector.notifiers.channel import Surroundings
from watchbill_collector.notifiers.channels.exec import Exec, Options
from watchbill_collector.notifiers.notice import SendFailed


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.fixture
def program(channel: Any, tmp_path: Path) -> Any:
    def make(work: str, limit: str = "10s", arguments: str = "") -> Any:
        script = tmp_path / "program"
        script.write_text(f"#!/bin/sh\n{work}\n")
        script.chmod(0o755)
        return channel("exec", f'timeout = "{limit}"\nargv = ["{script}"{arguments}]')

    return make


async def test_the_notice_is_json_on_standard_input(program: Any, a: Any, tmp_path: Path) -> None:
    await program(f"cat >{tmp_path}/got").send(a.hostile_notice())
    body = json.loads((tmp_path / "got").read_bytes())
    assert body["alerts"][0]["labels"]["instance"] == a.HOSTILE.replace("\ud800", "?")


async def test_arguments_are_no_shell(program: Any, a: Any, tmp_path: Path) -> None:
    made = program('printf "%s" "$1"', arguments=f', "$(touch {tmp_path}/pwned); `id` && x"')
    delivered = await made.send(a.notice())
    assert "$(touch" in delivered.detail
    assert not (tmp_path / "pwned").exists()


async def test_the_environment_holds_nothing_of_ours(
    program: Any, a: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials")
    delivered = await program("/usr/bin/env | /usr/bin/sort | /usr/bin/tr '\\n' ' '").send(a.notice())
    names = [part.split("=")[0] for part in delivered.detail.removeprefix("exit code 0, ").split(" ")]
    assert sorted(names) == ["LANG", "PATH", "PWD", "WATCHBILL_CHANNEL", "WATCHBILL_KIND"]


@pytest.mark.parametrize(("code", "transient"), [(1, False), (75, True), (64, False), (255, False)])
async def test_the_exit_code_says_what_became_of_it(code: int, transient: bool, program: Any, a: Any) -> None:
    with pytest.raises(SendFailed) as failed:
        await program(f"cat >/dev/null; echo because >&2; exit {code}").send(a.notice())
    assert failed.value.transient is transient
    assert f"exit code {code}, because" in failed.value.why


async def test_a_signal_is_no_answer(program: Any, a: Any) -> None:
    with pytest.raises(SendFailed, match="SIGKILL") as failed:
        await program("kill -9 $$").send(a.notice())
    assert failed.value.transient


async def test_what_it_started_ends_with_it(program: Any, a: Any, tmp_path: Path) -> None:
    made = program(f"sleep 1000 & echo $! >{tmp_path}/pid; wait", "1s")
    with pytest.raises(SendFailed, match="was killed"):
        await made.send(a.notice())
    await a.until(lambda: gone(int((tmp_path / "pid").read_text())))


async def test_what_it_leaves_running_does_not_undo_its_exit_code(
    program: Any, a: Any, tmp_path: Path
) -> None:
    made = program(f"sleep 1000 & echo $! >{tmp_path}/pid; echo sent; exit 0", "2s")
    assert (await made.send(a.notice())).detail == "exit code 0, sent"
    await a.until(lambda: gone(int((tmp_path / "pid").read_text())))


FORKS_AWAY = """python3 -I -S -c '
import os, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
open("{pid}", "w").write(str(os.getpid()))
time.sleep(1000)'
"""
"""As daemons do: another session, another parent, and the pipe still held open."""


@pytest.mark.parametrize(
    ("then", "limit", "wanted"), [("exit 0", "20s", "exit code 0"), ("sleep 1000", "2s", "was killed")]
)
async def test_what_forks_away_from_it_ends_with_it(
    then: str, limit: str, wanted: str, program: Any, a: Any, tmp_path: Path
) -> None:
    work = FORKS_AWAY.format(pid=tmp_path / "pid") + f"while ! [ -s {tmp_path}/pid ]; do :; done; {then}"
    try:
        said = (await program(work, limit).send(a.notice())).detail
    except SendFailed as failed:
        said = failed.why
    assert wanted in said
    assert gone(int((tmp_path / "pid").read_text())), "it is gone when the channel has its answer"


async def test_a_program_that_forks_without_end_is_ended_whole(program: Any, a: Any, tmp_path: Path) -> None:
    work = f"while :; do setsid sh -c 'echo $$ >>{tmp_path}/pids; exec sleep 1000' & sleep 0.02; done"
    with pytest.raises(SendFailed, match="was killed"):
        await program(work, "1s").send(a.notice())
    pids = [int(text) for text in (tmp_path / "pids").read_text().split()]
    assert len(pids) > 5
    assert all(gone(pid) for pid in pids)


CALLER = """
import asyncio, sys
from watchbill.config import Duration
from watchbill_collector.notifiers.channel import Surroundings
from watchbill_collector.notifiers.channels.exec import Exec, Options
from watchbill_collector.notifiers.trial import trial_notice
made = Exec(Options(name="x", kind="exec", argv=[sys.argv[1]], timeout=Duration(100)), Surroundings("0"))
asyncio.run(made.send(trial_notice("x", 1, "", "me", "1")))
"""


def test_nothing_outlives_a_collector_that_is_killed(tmp_path: Path) -> None:
    script, pid = tmp_path / "program", tmp_path / "pid"
    script.write_text("#!/bin/sh\n" + FORKS_AWAY.format(pid=pid) + "sleep 1000\n")
    script.chmod(0o755)
    with subprocess.Popen([sys.executable, "-c", CALLER, str(script)]) as caller:
        wait_for(lambda: pid.exists() and bool(pid.read_text()))
        caller.kill()
    wait_for(lambda: gone(int(pid.read_text())))


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to be"
        time.sleep(0.01)


async def test_output_without_end_is_bounded(program: Any, a: Any) -> None:
    delivered = await program("head -c 50000000 /dev/zero | tr '\\0' x").send(a.notice())
    assert len(delivered.detail) <= 600


async def test_a_program_may_read_nothing(program: Any, a: Any) -> None:
    large = a.notice(*(a.alert(number) for number in range(1_000)))
    delivered = await program("exec true").send(large)
    assert delivered.detail == "exit code 0"


async def test_a_program_that_is_not_there_may_come(channel: Any, a: Any) -> None:
    made = channel("exec", 'argv = ["/nowhere/tell"]')
    with pytest.raises(SendFailed, match="could not be started: no such file") as failed:
        await made.send(a.notice())
    assert failed.value.transient
    with pytest.raises(SendFailed, match="not there"):
        made.ready()


async def test_cancelled_it_leaves_no_process(program: Any, a: Any, tmp_path: Path) -> None:
    made = program(f"echo $$ >{tmp_path}/pid; exec sleep 1000", "100s")
    task = asyncio.create_task(made.send(a.notice()))
    await a.until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize(
    ("work", "wanted"),
    [
        ("cat >/dev/null; echo ok", "exit code 0, ok"),
        ("exec true", "exit code 0"),
        ("exit 75", "exit code 75"),
        ("kill -9 $$", "SIGKILL"),
        ("sleep 1000 & echo sent; exit 0", "exit code 0, sent"),
        ("sleep 1000 & exit 3", "exit code 3"),
        ("sleep 1000", "was killed"),
        ("head -c 9000000 /dev/zero", "exit code 0"),
    ],
)
def test_the_collectors_own_event_loop_does_the_same(work: str, wanted: str, tmp_path: Path, a: Any) -> None:
    script = tmp_path / "program"
    script.write_text(f"#!/bin/sh\n{work}\n")
    script.chmod(0o755)
    options = Options(name="x", kind="exec", argv=[str(script)], timeout=Duration(2))

    async def send() -> str:
        try:
            return (
                await Exec(options, Surroundings("0")).send(a.notice(*(a.alert(one) for one in range(300))))
            ).detail
        except SendFailed as failed:
            return failed.why

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert wanted in runner.run(send())
