"""Processes found and added up: a real /proc for what is alive, a made-up one for what is rare."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchbill.errors import ConfigError
from watchbill_agent.checks.check import About, Failed, Outcome, Verdict
from watchbill_agent.checks.config import Trees, read_checks
from watchbill_agent.checks.kinds.process import Options, Processes
from watchbill_agent.checks.process_table import ProcessTable, parse
from watchbill_agent.checks.thresholds import Limit, read_limit

from ..samplers import conftest as samplers
from ..samplers.conftest import FuseMount

fuse_mount, mounts_of_nobody_else = samplers.fuse_mount, samplers.mounts_of_nobody_else
FIFO = "a FIFO"


def check(procfs: Path = Path("/proc"), rootfs: Path = Path("/"), **said: Any) -> Processes:
    return Processes(Options(**said), About("x", 60, 5, procfs=procfs, rootfs=rootfs))


def numbers(outcome: Outcome) -> dict[tuple[str, ...], float]:
    """By name without its prefix, and by the labels beside the group."""
    return {
        (
            one.name.removeprefix("namedprocess_namegroup_"),
            *(value for name, value in one.labels if name != "groupname"),
        ): value
        for one, value in zip(outcome.samples.series, outcome.samples.values, strict=True)
    }


def comm_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


class Proc:
    """A made-up /proc."""

    def __init__(self, place: Path) -> None:
        self.place = place
        (place / "stat").write_text("cpu 1 2 3\nbtime 1700000000\n")

    def put(
        self,
        pid: int,
        comm: str = "app",
        *,
        cmdline: str = "",
        ticks: int = 0,
        start: int = 1000,
        state: str = "S",
    ) -> None:
        fields = [
            state,
            *["0"] * 10,
            str(ticks),
            str(2 * ticks),
            *["0"] * 4,
            "3",
            "0",
            str(start),
            "4096000",
            "100",
        ]
        (self.place / str(pid)).mkdir(exist_ok=True)
        (self.place / str(pid) / "stat").write_text(f"{pid} ({comm}) {' '.join(fields)} 0 0\n")
        (self.place / str(pid) / "cmdline").write_bytes(cmdline.replace(" ", "\0").encode() + b"\0")

    def end(self, pid: int) -> None:
        for file in (self.place / str(pid)).iterdir():
            file.unlink()
        (self.place / str(pid)).rmdir()


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1006)"])
    yield process
    process.kill()
    process.wait()


async def test_a_process_is_found_by_everything_that_names_it(
    sleeper: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    pidfile = tmp_path / "pid"
    pidfile.write_text(f"{sleeper.pid}\n")
    said: dict[str, Any] = {
        "comm": comm_of(sleeper.pid),
        "exe": os.readlink(f"/proc/{sleeper.pid}/exe"),  # noqa: PTH115
        "cmdline": r"^\S+ -c .*time\.sleep\(1006\)$",
        "user": str(os.geteuid()),
        "pidfile": pidfile,
    }
    found = numbers(await check(**said, pss=True).look(5))
    assert found["num_procs",] == 1
    assert found["num_threads",] == 1
    assert found["open_filedesc",] >= 3
    assert found["memory_bytes", "resident"] > 1e6
    assert 0 < found["memory_bytes", "proportionalResident"] <= found["memory_bytes", "resident"]
    assert abs(found["oldest_start_time_seconds",] - time.time()) < 100
    assert sum(value for (name, *_), value in found.items() if name == "states") == 1
    for key, wrong in {"comm": "y", "exe": "/y", "cmdline": "y y", "user": "54321"}.items():
        outcome = await check(**said | {key: wrong}).look(5)
        assert (outcome.verdict, outcome.reason) == (Verdict.CRITICAL, "too-few"), key
        assert outcome.detail.startswith("got 0 processes, wanted at least 1 with "), key


async def test_a_process_that_ended_and_was_not_reaped_does_not_count(proc: Proc) -> None:
    proc.put(7)
    proc.put(8, state="Z")
    looking = check(proc.place, comm="app", fail=["zombies >= 1"])
    outcome = await looking.look(5)
    assert (outcome.verdict, outcome.detail) == (Verdict.CRITICAL, "zombies: got 1, wanted not zombies >= 1")
    found = numbers(outcome)
    assert (found["num_procs",], found["states", "Zombie"], found["states", "Sleeping"]) == (1, 1, 1)


async def test_counters_never_go_back(proc: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("watchbill_agent.checks.process_table.SHARED_AGE_S_MAX", -1.0)
    looking = check(proc.place, comm="app")
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    proc.put(7, ticks=100)
    proc.put(8, ticks=50)
    seen = [numbers(await looking.look(5))["cpu_seconds_total", "user"]]
    proc.end(8)
    seen.append(numbers(await looking.look(5))["cpu_seconds_total", "user"])
    proc.put(7, ticks=10, start=2000)  # Another process with the same number.
    seen.append(numbers(await looking.look(5))["cpu_seconds_total", "user"])
    proc.put(7, ticks=15, start=2000)
    seen.append(numbers(await looking.look(5))["cpu_seconds_total", "user"])
    assert seen == pytest.approx([150 * tick_s, 150 * tick_s, 160 * tick_s, 165 * tick_s])


async def test_too_many_are_told_by_name_and_number(proc: Proc) -> None:
    for pid in range(10, 18):
        proc.put(pid, cmdline="app --worker")
    outcome = await check(proc.place, cmdline="--worker", max=3).look(5)
    assert outcome.reason == "too-many"
    assert outcome.detail.startswith("got 8 processes (app 1")
    assert outcome.detail.endswith("wanted at most 3 with cmdline --worker")


@pytest.mark.parametrize(
    ("content", "late_s", "said"),
    [
        (None, 0, "cannot be read, or is empty"),
        (FIFO, 0, "cannot be read, or is empty"),
        ("x", 0, "got b'x' in it"),
        ("9", 0, "there is no process 9"),
        ("7", 0, ""),
        ("7", 60, "7 is another process, younger than the file"),
    ],
)
async def test_a_pidfile_names_a_process_that_is_as_old_as_itself(
    proc: Proc, tmp_path: Path, content: str | None, late_s: float, said: str
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    proc.put(7, start=0)
    if content == FIFO:
        os.mkfifo(root / "app.pid")
    elif content is not None:
        (root / "app.pid").write_text(content)
        os.utime(root / "app.pid", (0, 1700000000 - late_s))
    looking = check(proc.place, root, pidfile=Path("/app.pid"))
    if said:
        with pytest.raises(Failed, match=said) as raised:
            await looking.look(5)
        assert (raised.value.verdict, raised.value.reason) == (Verdict.CRITICAL, "pidfile")
    else:
        assert (await looking.look(5)).verdict is Verdict.OK


async def test_checks_at_one_moment_share_one_walk(proc: Proc) -> None:
    table = ProcessTable(proc.place)
    first = await table.ask(lambda walk: walk, 5)
    assert await table.ask(lambda walk: walk, 5) is first


async def test_a_process_that_cannot_be_read_holds_nobody_up(proc: Proc, fuse_mount: FuseMount) -> None:
    """A link onto a mount that never answers stands for memory that lies there."""
    proc.put(7, cmdline="app --one")
    proc.put(8, comm="hung")
    (proc.place / "8" / "cmdline").unlink()
    (proc.place / "8" / "cmdline").symlink_to(fuse_mount.point / "memory")
    looking = check(proc.place, cmdline="--one")
    with pytest.raises(Failed, match=f"reading {proc.place}/8 does not end") as raised:
        await looking.look(0.2)
    assert (raised.value.verdict, raised.value.reason) == (Verdict.UNKNOWN, "stuck")
    assert (await looking.look(5)).verdict is Verdict.OK, "it is not asked again"
    fuse_mount.unmount()


@given(st.binary(max_size=300) | st.just(b"7 (a) R) S " + b"1 " * 30))
def test_nothing_in_stat_stumbles(data: bytes) -> None:
    process = parse("7", data)
    assert process is None or process.key == (7, int(process.fields[19]))


def test_the_last_parenthesis_ends_a_name() -> None:
    process = parse("7", b"7 (a) R 1 (b\n) S " + b"5 " * 30)
    assert process is not None
    assert (process.comm, process.state) == ("a) R 1 (b\n", "S")


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("a > 5", Limit("a", ">", 5, "a > 5")),
        ("a>=80%", Limit("a", ">=", 0.8, "a >= 80%")),
        ("a < 500ms", Limit("a", "<", 0.5, "a < 500ms")),
        ("a > 2GiB", Limit("a", ">", 2 * 1024**3, "a > 2GiB")),
        ("a != -1.5", Limit("a", "!=", -1.5, "a != -1.5")),
        ("a > ", None),
        ("> 5", None),
        ("a > b", None),
        ("a > 5 b", None),
        ("a => 5", None),
    ],
)
def test_a_limit_is_a_number_a_comparison_and_a_bound(text: str, limit: Limit | None) -> None:
    assert read_limit(text) == limit


@pytest.mark.parametrize(
    ("line", "key", "wanted"),
    [
        ("", "comm", "which processes: comm, exe, cmdline, user or pidfile"),
        ('cmdline = "("', "cmdline", "a regular expression"),
        ('exe = "nginx"', "exe", "an absolute path"),
        ('comm = "a"\nmin = 3\nmax = 2', "max", "at least min, 3"),
        ('comm = "a"\nwarn = ["memory > 5"]', "warn", "one of its numbers: processes, zombies"),
        ('comm = "a"\nfail = ["memory_bytes 5"]', "fail[0]", "a number of the check and a limit"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, line: str, key: str, wanted: str) -> None:
    (tmp_path / "checks.toml").write_text(f'[[check]]\nname = "x"\nkind = "process"\n{line}\n')
    with pytest.raises(ConfigError) as raised:
        read_checks(Trees(tmp_path))
    (problem,) = raised.value.problems
    assert problem.key == f"check[0].{key}"
    assert wanted in problem.wanted


async def test_what_others_own_is_counted_as_unreadable(proc: Proc) -> None:
    proc.put(7)
    outcome = await check(proc.place, comm="app").look(5)
    assert numbers(outcome)["watchbill_check_process_unreadable",] == 1
    assert ("open_filedesc",) not in numbers(outcome)
