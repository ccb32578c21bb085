"""Plugins run: exit codes, deadlines, floods, and what they leave behind is gone."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from watchbill.errors import ConfigError
from watchbill_agent.checks import strays
from watchbill_agent.checks.check import About, Failed, Outcome, Verdict
from watchbill_agent.checks.config import Trees, read_checks
from watchbill_agent.checks.kinds.exec import Exec, Options

from ..samplers import conftest as samplers
from ..samplers.conftest import FuseMount

fuse_mount, mounts_of_nobody_else = samplers.fuse_mount, samplers.mounts_of_nobody_else


def plugin(script: str, **said: Any) -> Exec:
    return Exec(Options(argv=["/bin/sh", "-c", script], **said), About("x", 60, 10))


async def look(script: str, within_s: float = 10, **said: Any) -> Outcome:
    check = plugin(script, **said)
    try:
        return await check.look(within_s)
    finally:
        await check.close()


def facts(outcome: Outcome) -> dict[str, float]:
    prefix = "watchbill_check_plugin_"
    pairs = zip(outcome.samples.series, outcome.samples.values, strict=True)
    return {one.name.removeprefix(prefix): value for one, value in pairs if one.name.startswith(prefix)}


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not what():  # noqa: ASYNC110 - Processes set no events.
            await asyncio.sleep(0.01)


def there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("script", "verdict", "reason", "detail"),
    [
        ("echo fine; exit 0", Verdict.OK, "", "fine"),
        ("echo 'so so|a=1'; echo more; exit 1", Verdict.WARNING, "warning", "so so / more"),
        ("echo bad; echo noise >&2; exit 2", Verdict.CRITICAL, "critical", "bad"),
        ("exit 3", Verdict.UNKNOWN, "unknown", ""),
        ("echo no module >&2; exit 2", Verdict.CRITICAL, "critical", "stderr: no module"),
        ("exit 4", Verdict.UNKNOWN, "exit-code", "got exit code 4, wanted exit code 0 to 3"),
        (
            "echo gone; exit 137",
            Verdict.UNKNOWN,
            "exit-code",
            "got exit code 137, as a shell says of SIGKILL, wanted exit code 0 to 3; it said: gone",
        ),
        ("kill -SEGV $$", Verdict.UNKNOWN, "signal", "got SIGSEGV, wanted exit code 0 to 3"),
        (r"printf 'a\0b\377\033[31m'", Verdict.OK, "", "a?b\ufffd?[31m"),
    ],
)
async def test_an_exit_code_is_the_verdict(script: str, verdict: Verdict, reason: str, detail: str) -> None:
    outcome = await look(script)
    assert (outcome.verdict, outcome.reason, outcome.detail) == (verdict, reason, detail)


async def test_no_shell_and_no_environment_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHBILL_SECRET", "x")
    check = Exec(Options(argv=["/usr/bin/env"], env={"LANG": "$HOME;*"}), About("x", 60, 10))
    said = set((await check.look(10)).detail.split(" / "))
    assert {one.partition("=")[0] for one in said if not one.startswith(strays.MARK)} == {
        "HOME",
        "LANG",
        "LC_ALL",
        "PATH",
        "WATCHBILL_CHECK",
    }
    assert "LANG=$HOME;*" in said


async def test_a_program_that_cannot_be_started_is_unknown(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    check = Exec(Options(argv=[str(nothing)]), About("x", 60, 10))
    with pytest.raises(Failed, match=r"nothing: no such file or directory") as raised:
        await check.look(10)
    assert (raised.value.verdict, raised.value.reason) == (Verdict.UNKNOWN, "cannot-start")


async def test_a_secret_reaches_the_plugin_and_nobody_else(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2\n")
    secret.chmod(0o600)
    outcome = await look('echo "got $PASS|a=1"; exit 2', secrets={"PASS": str(secret)})
    assert outcome.detail == "got ***"
    secret.chmod(0o604)
    with pytest.raises(Failed, match="others may read or write it") as raised:
        await look("true", secrets={"PASS": str(secret)})
    assert raised.value.reason == "credential"


async def test_output_is_cut_and_what_was_dropped_is_counted() -> None:
    outcome = await look("head -c 3000000 /dev/zero | tr '\\0' x", output_max=1024)
    assert outcome.verdict is Verdict.OK
    assert facts(outcome)["dropped_bytes"] == 3_000_000 - 1024
    assert len(outcome.detail) == 300


async def test_a_gigabyte_costs_nothing() -> None:
    before_s = time.thread_time()
    outcome = await look("exec head -c 1000000000 /dev/zero")
    assert (outcome.verdict, outcome.reason) == (Verdict.UNKNOWN, "output-endless")
    assert time.thread_time() - before_s < 1, "a twentieth of it is usual; to read all takes longer"


async def test_what_hangs_is_told_to_end_and_then_made_to(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    check = plugin(f"trap 'echo told >{tmp_path}/told' TERM; echo waiting; echo $$ >{pids}; "
                   "while :; do sleep 0.05; done")  # fmt: skip
    outcome = await check.look(0.5)
    assert (outcome.verdict, outcome.reason) == (Verdict.CRITICAL, "timeout")
    assert outcome.detail == "got no end within 0.5 s; it said: waiting"
    pid = int(pids.read_text())
    await until((tmp_path / "told").exists)
    assert alive(pid), "it has a while to tidy up"
    await check.close()
    assert not there(pid), "killed and reaped"


async def test_what_keeps_the_pipe_open_or_leaves_the_group_ends_with_its_run(tmp_path: Path) -> None:
    script = f"""
        sleep 1000 & echo $! >>{tmp_path}/pids
        (setsid sh -c 'echo $$ >>{tmp_path}/pids; sleep 1001 & echo $! >>{tmp_path}/pids; touch {tmp_path}/on; wait' &)
        while [ ! -e {tmp_path}/on ]; do sleep 0.01; done
        echo well"""
    check = plugin(script)
    outcome = await check.look(10)
    assert (outcome.verdict, outcome.detail) == (Verdict.OK, "well")
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 3
    await until(lambda: not any(map(alive, pids)))
    await check.look(10)  # It does not begin before the end of the first is done.
    await check.close()
    assert not set(strays.children()) & set(pids), "none is left to be reaped"


async def test_many_timeouts_leave_no_process_and_no_descriptor() -> None:
    async def once() -> None:
        assert (await look("setsid sleep 1002 & sleep 1003 & exec sleep 1004", 0.1)).reason == "timeout"

    await once()
    before = descriptors()
    for _ in range(2):
        await asyncio.gather(*(once() for _ in range(20)))
    assert descriptors() == before
    left = [command_line(pid) for pid in strays.children()]
    assert not [one for one in left if one.startswith(b"sleep\x00100") or not one]


def test_a_program_on_a_mount_that_never_answers_holds_nobody_up(fuse_mount: FuseMount) -> None:
    """In a process of its own: were it held up, it could not even be killed before the mount is gone."""
    script = """
import asyncio, sys
from watchbill_agent.checks.check import About, Failed
from watchbill_agent.checks.kinds.exec import Exec, Options
async def look_at(path, within_s):
    try:
        return (await Exec(Options(argv=[path]), About("x", 60, 10)).look(within_s)).verdict.word
    except Failed as exc:
        return exc.reason
async def main():
    hung = asyncio.create_task(look_at(sys.argv[1], 1.0))
    print(await look_at("/bin/true", 10), hung.done())
    print(await hung)
asyncio.run(main())"""
    argv = (sys.executable, "-c", script, str(fuse_mount.point / "check"))
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        said, _ = process.communicate(timeout=30)
    finally:
        fuse_mount.unmount()
        process.kill()
    assert said.splitlines() == ["ok False", "stuck"]


def test_what_a_process_that_was_killed_left_is_ended_by_the_next(tmp_path: Path) -> None:
    script = f"""
import asyncio, os, signal
from watchbill_agent.checks.command import Command
async def main():
    command = Command(["/bin/sh", "-c", "echo $$ >{tmp_path}/pid; sleep 1009 & wait"], 1000)
    running = asyncio.create_task(command.run({{}}, 60))
    while not os.path.exists("{tmp_path}/pid") or not open("{tmp_path}/pid").read():
        await asyncio.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())"""
    subprocess.run((sys.executable, "-c", script), timeout=20, check=False)
    pid = int((tmp_path / "pid").read_text())
    assert alive(pid)
    assert strays.end_abandoned() >= 1
    until_s = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < until_s
        time.sleep(0.01)


async def test_a_look_that_is_cancelled_takes_its_process_along(tmp_path: Path) -> None:
    check = plugin(f"echo $$ >{tmp_path}/pid; sleep 1005")
    looking = asyncio.create_task(check.look(10))
    await until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"))
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking
    await check.close()
    assert not there(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize(
    ("script", "verdict", "reason", "detail"),
    [
        ('echo \'{"status": "critical", "message": "no orders", "metrics": {"o": 1}}\'', 2, "critical", "no orders"),
        ('echo \'{"message": "by code"}\'; exit 1', 1, "warning", "by code"),
        ('echo \'{"status": "ok"}\'; exit 9', 3, "exit-code", "got exit code 9"),
        ("echo fine", 3, "not-json", "got no JSON"),
    ],
)  # fmt: skip
async def test_json_says_more_than_an_exit_code(script: str, verdict: int, reason: str, detail: str) -> None:
    outcome = await look(script, format="json")
    assert (outcome.verdict, outcome.reason) == (verdict, reason)
    assert outcome.detail.startswith(detail)


async def test_roots_commands_are_read_through_the_runner(tmp_path: Path) -> None:
    """Where there is none, it says so; `tests/agent/runner` has what a runner answers."""
    check = Exec(Options(observe="disk.health"), About("x", 60, 10, etc=tmp_path / "etc"))
    with pytest.raises(Failed, match=r"no runner listens there") as raised:
        await check.look(10)
    assert raised.value.reason == "no-runner"
    assert f"{tmp_path}/run/runner/runner.sock" in str(raised.value)


@pytest.mark.parametrize(
    ("line", "key", "got", "wanted"),
    [
        ('argv = ["check_disk"]', "argv[0]", '"check_disk"', "the absolute path of a program; there is no shell"),
        ("argv = []", "argv", "nothing", "one of argv and observe"),
        ('argv = ["/a"]\nobserve = "b"', "argv", "both argv and observe", "one of argv and observe"),
        ('argv = ["/a"]\nrun_as = "root"', "run_as", '"root"', "no such thing: it runs as the agent's user"),
        ('argv = ["/a"]\noutput_max = "1MiB"', "output_max", '"1MiB"', "at most 64KiB"),
        ('argv = ["/a"]\nenv = { "A B" = "c" }', 'env."A B"', '"A B"', "the name of a variable"),
        ('argv = ["/a"]\nsecrets = { A = "b" }', "secrets.A", '"b"', "an absolute path"),
        ('observe = "a"\nenv = { A = "b" }', "env", "an environment", "none with observe"),
        ('argv = ["/a"]\nformat = "xml"', "format", '"xml"', 'one of: "nagios", "json"'),
    ],
)  # fmt: skip
def test_a_mistake_is_named(tmp_path: Path, line: str, key: str, got: str, wanted: str) -> None:
    (tmp_path / "checks.toml").write_text(f'[[check]]\nname = "x"\nkind = "exec"\n{line}\n')
    with pytest.raises(ConfigError) as raised:
        read_checks(Trees(tmp_path))
    (problem,) = raised.value.problems
    assert problem.file.endswith("checks.toml")
    assert problem.line in (1, 4, 5)
    assert problem.key == f"check[0].{key}"
    assert problem.got == got
    assert wanted in problem.wanted
