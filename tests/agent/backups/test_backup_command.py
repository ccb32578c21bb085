"""Tools that hang, flood, leave children behind or are not there: each ends, and what happened is told."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from watchbill_agent.backups import command
from watchbill_agent.backups.adapter import ERRORS_MAX, Finished, Reason, error_lines, trouble
from watchbill_agent.backups.command import STDERR_BYTES_MAX, HostCommands

LONG_S = 60.0


def gone(pid: int, within_s: float = 10.0) -> bool:
    until_s = time.monotonic() + within_s
    while time.monotonic() < until_s:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


@pytest.fixture
def commands(tmp_path: Path) -> HostCommands:
    return HostCommands(tmp_path, LONG_S)


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code]


def test_output_exit_code_and_errors_come_back(commands: HostCommands) -> None:
    finished = commands.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert finished == Finished(exit_code=3, stdout=b"out\n", stderr=b"err\n")
    assert not finished.ok
    assert trouble(finished, "sh") is None


def test_a_tool_has_the_c_locale_utc_and_no_variable_of_ours(
    commands: HostCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_OURS", "x")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    monkeypatch.setenv("TZ", "Europe/Berlin")
    finished = commands.run(["env"], env={"RESTIC_REPOSITORY": "/srv/r", "TZ": "Asia/Tokyo"})
    said = dict(line.split("=", 1) for line in finished.stdout.decode().splitlines())
    assert (said["LC_ALL"], said["TZ"], said["RESTIC_REPOSITORY"]) == ("C", "UTC", "/srv/r")
    assert not {"SECRET_OF_OURS", "LANG"} & said.keys()


def test_it_has_no_terminal_a_session_of_its_own_and_the_input_that_was_given(commands: HostCommands) -> None:
    content = b"x" * 300_000
    code = "import os,sys; d=sys.stdin.buffer.read(); print(len(d), os.getsid(0)==os.getpid(), os.isatty(0))"
    assert commands.run(python(code), input=content).stdout == b"300000 True False\n"
    assert commands.run(["cat"]).stdout == b""


def test_a_tool_that_does_not_read_its_input_is_no_matter(commands: HostCommands) -> None:
    assert commands.run(["true"], input=b"x" * 1_000_000).ok


def test_a_tool_that_hangs_is_ended_at_its_deadline_with_all_it_started(
    commands: HostCommands, tmp_path: Path
) -> None:
    finished = commands.run(
        ["sh", "-c", f"sleep 60 & echo $! > {tmp_path}/pid; echo half; wait"], deadline_s=0.3
    )
    assert (finished.timed_out, finished.ok, finished.stdout) == (True, False, b"half\n")
    assert gone(int((tmp_path / "pid").read_text()))
    said = trouble(finished, "sh")
    assert said is not None
    assert said[0] is Reason.TIMED_OUT


def test_at_the_deadline_a_tool_may_tidy_up(commands: HostCommands) -> None:
    code = "import signal,sys,time\nsignal.signal(15, lambda *_: (print('unlocked'), sys.exit(9)))\n"
    finished = commands.run(python(code + "print('x', flush=True)\ntime.sleep(60)"), deadline_s=1.0)
    assert finished.timed_out
    assert finished.exit_code == 9


def test_a_tool_that_ignores_the_request_is_killed(
    commands: HostCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "TERM_GRACE_S", 0.2)
    finished = commands.run(["sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"], deadline_s=0.3)
    assert (finished.timed_out, finished.signal, finished.exit_code) == (True, signal.SIGKILL, None)


def test_what_a_tool_leaves_behind_holds_nobody_up_and_is_ended(
    commands: HostCommands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "LINGER_S", 0.2)
    began_s = time.monotonic()
    finished = commands.run(["sh", "-c", f"sleep 60 & echo $! > {tmp_path}/pid; echo done"])
    assert (finished.exit_code, finished.stdout, finished.timed_out) == (0, b"done\n", False)
    assert time.monotonic() - began_s < 30
    assert gone(int((tmp_path / "pid").read_text()))


def test_a_tool_that_closes_its_output_and_works_on_is_waited_for(commands: HostCommands) -> None:
    assert commands.run(["sh", "-c", "exec >&- 2>&-; sleep 0.3; exit 4"]).exit_code == 4


def test_a_tool_that_never_stops_printing_is_ended_with_what_may_be_kept(commands: HostCommands) -> None:
    finished = commands.run(["yes"], stdout_bytes_max=1000)
    assert (finished.truncated, len(finished.stdout), finished.ok) == (True, 1000, False)
    said = trouble(finished, "yes")
    assert said is not None
    assert said[0] is Reason.TOO_MUCH_OUTPUT


def test_of_what_is_said_on_stderr_the_end_is_kept(commands: HostCommands) -> None:
    finished = commands.run(python("import sys; sys.stderr.write('a' * 2_000_000 + 'Fatal: locked')"))
    assert len(finished.stderr) == STDERR_BYTES_MAX
    assert finished.stderr.endswith(b"aFatal: locked")
    assert finished.ok


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("no-such-tool", "is not installed here, or not in PATH"),
        ("/usr/bin/no-such", "is not installed here"),
    ],
)
def test_a_missing_tool_is_told_as_missing(commands: HostCommands, program: str, words: str) -> None:
    finished = commands.run([program])
    assert finished.missing
    said = trouble(finished, program)
    assert said is not None
    assert said[0] is Reason.TOOL_MISSING
    assert any(line.endswith(words) for line in said[1])


def test_a_tool_that_may_not_be_executed_is_told_apart_from_one_that_is_not_there(
    commands: HostCommands, tmp_path: Path
) -> None:
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    assert b"may not execute it" in commands.run([str(tmp_path / "tool")]).stderr


def test_all_commands_together_have_the_whole_time_and_no_more(tmp_path: Path) -> None:
    commands = HostCommands(tmp_path, 0.4)
    assert commands.run(["sleep", "60"], deadline_s=30).timed_out
    assert commands.left_s() <= 0
    assert commands.run(["true"]).timed_out


def test_a_signal_is_told_as_one(commands: HostCommands) -> None:
    finished = commands.run(["sh", "-c", "kill -11 $$"])
    assert (finished.exit_code, finished.signal) == (None, signal.SIGSEGV)
    said = trouble(finished, "restic")
    assert said == (Reason.TOOL_FAILED, ("restic died of signal 11",))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_tool_dies_with_the_process_that_started_it(tmp_path: Path, number: signal.Signals) -> None:
    code = (
        "import signal, sys; from pathlib import Path\n"
        "from watchbill_agent.backups.command import HostCommands\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))\n"
        f"HostCommands(Path({str(tmp_path)!r}), 60).run(['sh', '-c', 'echo $$ > pid; exec sleep 60'])\n"
    )
    with subprocess.Popen([sys.executable, "-I", "-c", code]) as child:
        until_s = time.monotonic() + 20
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            assert time.monotonic() < until_s
            time.sleep(0.02)
        os.kill(child.pid, number)
    assert gone(int((tmp_path / "pid").read_text()))


def test_the_bound_of_our_memory_is_not_the_tools(tmp_path: Path) -> None:
    code = (
        "import resource; from pathlib import Path\n"
        "from watchbill_agent.backups.command import HostCommands, bound_memory\n"
        "bound_memory(1 << 30)\n"
        f"print(HostCommands(Path({str(tmp_path)!r}), 60).run(['sh', '-c', 'ulimit -v']).stdout.decode())\n"
        "print(resource.getrlimit(resource.RLIMIT_AS)[0])"
    )
    tools, ours = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, check=True
    ).stdout.split()
    assert ours == str(1 << 30).encode()
    assert tools != str((1 << 30) // 1024).encode()


def test_a_look_gives_way_to_everything_else(tmp_path: Path) -> None:
    code = (
        "import os; from watchbill_agent.backups.command import quiet_down; quiet_down()\n"
        "print(os.nice(0), open('/proc/self/oom_score_adj').read())"
    )
    nice, adjust = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, check=True
    ).stdout.split()
    assert int(nice) >= min(19, os.nice(0) + command.NICE)
    assert int(adjust) == command.OOM_SCORE_ADJUST


def test_errors_are_bounded_and_printable() -> None:
    lines = error_lines(b"\x1b[31mFatal:\xff\n\n" + b"x\n" * 50 + b"last" * 1000, "first")
    assert len(lines) == ERRORS_MAX
    assert lines[0] == "first"
    assert lines[-1].startswith("lastlast")
    assert all(line.isprintable() and 0 < len(line) <= 500 for line in lines)
    assert error_lines(b"\x1b[31mFatal") == ("[31mFatal",)
