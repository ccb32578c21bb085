"""`backup wrap` as a process: what passes through, what is told, and what never harms the backup."""

import asyncio
import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from watchbill.backups.record import BACKUP_RECORD, Outcome, Record, Source, read_record
from watchbill.protocol.frames import Stream
from watchbill_agent.backups.commandline import wrap_parser
from watchbill_agent.entry import plain_wrap

WRAP = (sys.executable, "-m", "watchbill_agent", "backup", "wrap")
DEADLINE_S = 60.0


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "var/agent").mkdir(parents=True)
    return tmp_path


def environment(home: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "WATCHBILL_HOME": str(home), **more}


def run(home: Path, *words: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*WRAP, *words], capture_output=True, timeout=DEADLINE_S, env=environment(home), check=False, **more
    )


def records(home: Path) -> list[Record]:
    place = home / "var/agent/backups/incoming"
    found = [read_record(path.read_bytes()) for path in place.glob("[0-9]*.json")]
    return sorted(found, key=lambda one: (one.observed_ms, one.finished_ms))


def last(home: Path) -> Record:
    return records(home)[-1]


def sh(script: str) -> tuple[str, ...]:
    return ("--", "sh", "-c", script)


def ended(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def until(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_a_command_waits_for_no_import_that_only_others_need(home: Path) -> None:
    """Two thirds of what a wrapped command waited for were these."""
    (home / "etc/backups.d").mkdir(parents=True)
    (home / "etc/backups.d/nightly.toml").write_text('[[backup]]\nname = "nightly"\ntool = "wrap"\n')
    script = (
        "import sys, watchbill_agent.entry as e\n"
        f"code = e.main(['--home', {str(home)!r}, 'backup', 'wrap', 'nightly', '--', 'true'])\n"
        "heavy = {'argparse', 'asyncio', 'dataclasses', 'inspect', 'logging', 'msgspec', 'shutil', 'socket', 'ssl',\n"
        "         'subprocess', 'watchbill_agent.cli', 'watchbill_agent.backups.redact'}\n"
        "print(code, sorted(heavy & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("0 []\n", "")
    assert [one.tool for one in records(home)] == ["wrap", "wrap"]


@pytest.mark.parametrize(
    "words",
    [
        "nightly",
        "--home /h nightly",
        "--home=/h nightly",
        "--home /h --home /i nightly",
        "--home=a=b nightly",
    ],
)
def test_what_is_read_by_hand_is_read_as_argparse_reads_it(words: str) -> None:
    found = wrap_parser().parse_args(words.split())
    home = getattr(found, "home", None)
    assert plain_wrap(words.split()) == (str(home) if home else None, found.job)


@pytest.mark.parametrize(
    "words",
    [
        *("", "--home", "--home /h", "--home= nightly", "--home -x nightly", "--homes /h nightly", "-h"),
        *("--require-record nightly", "nightly --require-record", "nightly weekly", "nightly --home /h"),
    ],
)
def test_whatever_else_is_said_is_left_to_argparse(words: str) -> None:
    assert plain_wrap(words.split()) is None


@pytest.mark.parametrize("code", [0, 3, 255])
def test_the_exit_code_passes_and_is_told(home: Path, code: int) -> None:
    done = run(home, "nightly", *sh(f"echo out; echo err >&2; exit {code}"))
    assert (done.returncode, done.stdout, done.stderr) == (code, b"out\n", b"err\n")
    begun, ended = records(home)
    assert (begun.outcome, ended.outcome) == (Outcome.RUNNING, Outcome.OK if code == 0 else Outcome.FAILED)
    assert begun.run_id == ended.run_id != ""
    assert begun.record_id != ended.record_id
    assert (begun.job, begun.source, begun.tool) == ("nightly", Source.WRAP, "wrap")
    assert ended.exit_code == code
    assert 0 < begun.started_ms == ended.started_ms == ended.point_ms <= ended.finished_ms
    assert sorted(ended.tail.split()) == ["err", "out"]


@pytest.mark.parametrize(("option", "outcome"), [("", Outcome.OK), ("set -o pipefail; ", Outcome.FAILED)])
def test_of_a_pipe_the_shell_tells_how_its_end_went_unless_it_is_told_to_tell_more(
    home: Path, option: str, outcome: Outcome
) -> None:
    run(home, "nightly", "--", "bash", "-c", f"{option}false | gzip > /dev/null")
    assert records(home)[-1].outcome is outcome


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
def test_death_by_a_signal_passes_and_is_told(home: Path, number: int) -> None:
    done = run(home, "nightly", *sh(f"kill -{int(number)} $$"))
    assert (done.returncode, done.stdout, done.stderr) == (-number, b"", b"")
    assert (last(home).outcome, last(home).signal, last(home).exit_code) == (Outcome.FAILED, number, None)
    assert last(home).reason == "killed"


def test_everything_that_is_printed_and_read_passes_unchanged(home: Path) -> None:
    content = os.urandom(3_000_000)
    done = run(home, "nightly", *sh("tee /dev/stderr"), input=content)
    assert done.stdout == content
    assert done.stderr == content
    assert len(last(home).tail) <= 8192


def test_environment_directory_and_descriptors_are_those_of_the_caller(home: Path) -> None:
    seen = home / "seen"
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" 9>{seen}', "sh", *WRAP, "nightly", *sh("env; pwd; echo seen >&9")],
        capture_output=True,
        timeout=DEADLINE_S,
        env={"PATH": os.environ["PATH"], "WATCHBILL_HOME": str(home), "MINE": "a b"},
        cwd=home,
        check=True,
    )
    assert seen.read_text() == "seen\n"
    lines = done.stdout.decode().splitlines()
    names = {line.partition("=")[0] for line in lines[:-1]}
    assert names <= {"PATH", "WATCHBILL_HOME", "MINE", "PWD", "SHLVL", "_", "OLDPWD"}
    assert "MINE=a b" in lines
    assert lines[-1] == str(home)


def test_signals_reach_the_group_of_the_command(home: Path) -> None:
    script = 'trap "echo told; exit 7" TERM; sleep 60 & echo $$ $!; wait'
    with subprocess.Popen(
        [*WRAP, "nightly", *sh(script)], stdout=subprocess.PIPE, env=environment(home), start_new_session=True
    ) as process:
        assert process.stdout is not None
        shell, child = map(int, process.stdout.readline().split())
        assert os.getpgid(shell) == shell != process.pid
        process.terminate()
        assert process.stdout.read() == b"told\n"
        assert process.wait(DEADLINE_S) == 7
        until(lambda: ended(child))
    assert last(home).exit_code == 7


def test_an_ignored_signal_stays_ignored(home: Path) -> None:
    script = "kill -HUP $PPID; kill -HUP $$; echo alive"
    done = subprocess.run(
        ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *WRAP, "nightly", *sh(script)],
        capture_output=True,
        timeout=DEADLINE_S,
        env=environment(home),
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"alive\n")


def test_killed_by_sigkill_it_leaves_a_run_without_an_end_and_the_command_goes_on(home: Path) -> None:
    mark = home / "mark"
    process = subprocess.Popen(
        [*WRAP, "nightly", *sh(f"echo $$ > {mark}; exec sleep 60")], env=environment(home)
    )
    until(lambda: mark.exists() and mark.read_text() and len(records(home)) == 1)
    process.kill()
    process.wait(DEADLINE_S)
    command = int(mark.read_text())
    os.kill(command, 0)
    os.kill(command, signal.SIGKILL)
    assert [record.outcome for record in records(home)] == [Outcome.RUNNING]


def test_what_a_command_leaves_behind_does_not_hold_up_its_end(home: Path) -> None:
    done = run(home, "nightly", *sh("sleep 60 & echo $!"))
    os.kill(int(done.stdout), signal.SIGKILL)
    assert done.returncode == 0
    assert last(home).outcome is Outcome.OK


def test_a_full_disk_under_the_log_ends_no_backup(home: Path) -> None:
    with open("/dev/full", "wb") as full:
        script = "for n in 1 2 3; do head -c 100000 /dev/zero | tr '\\0' x; done; exit 4"
        command = [*WRAP, "nightly", *sh(script)]
        done = subprocess.run(command, stdout=full, env=environment(home), timeout=DEADLINE_S, check=False)
    assert done.returncode == 4
    assert last(home).exit_code == 4


def test_who_stops_reading_us_stops_reading_the_command(home: Path) -> None:
    with subprocess.Popen(
        [*WRAP, "nightly", "--", "yes"], stdout=subprocess.PIPE, env=environment(home)
    ) as one:
        assert one.stdout is not None
        assert one.stdout.read(4) == b"y\ny\n"
        one.stdout.close()
        assert one.wait(DEADLINE_S) == -signal.SIGPIPE
    assert last(home).signal == signal.SIGPIPE


@pytest.mark.parametrize(
    ("command", "code"),
    [("/no/such/file", 127), ("no-such-command", 127), ("/etc", 126), ("/etc/passwd", 126)],
)
def test_a_command_that_cannot_be_started_ends_as_in_a_shell(home: Path, command: str, code: int) -> None:
    done = run(home, "nightly", "--", command)
    assert done.returncode == code
    assert command.encode() in done.stderr
    assert (last(home).outcome, last(home).reason, last(home).exit_code) == (
        Outcome.FAILED,
        "not-started",
        code,
    )


PATTERNS = """
[[backup]]
name = "nightly"
tool = "wrap"
fail_if = ["^ERROR"]
partial_if = ["skipp(ed|ing)"]
"""


@pytest.mark.parametrize(
    ("words", "script", "outcome", "reason"),
    [
        ((), "echo fine", "ok", ""),
        ((), "echo 'ERROR: disk'; echo fine", "failed", "fail-line"),
        ((), "echo no ERROR", "ok", ""),
        ((), "echo skipping a; exit 3", "partial", "partial-line"),
        ((), "echo skipping a >&2; echo ERROR", "failed", "fail-line"),
        (("--ok-if", "done"), "echo done; exit 1", "ok", ""),
        (("--ok-if", "done"), "echo fine", "failed", "ok-line-missing"),
        (("--ok-if", "done"), "echo done; echo skipped", "partial", "partial-line"),
        (("--ok-if", "done"), "echo done; kill -9 $$", "failed", "killed"),
        (("--fail-if", "("), "echo ERROR", "ok", ""),
        (("--fail-if", "a+$"), "printf 'x\\r\\naaa\\r\\nb'", "failed", "fail-line"),
    ],
)
def test_lines_decide(home: Path, words: tuple[str, ...], script: str, outcome: str, reason: str) -> None:
    (home / "etc/backups.d").mkdir(parents=True)
    (home / "etc/backups.d/a.toml").write_text(PATTERNS)
    done = run(home, *words, "nightly", *sh(script))
    assert (last(home).outcome, last(home).reason) == (outcome, reason)
    if "(" in words:
        assert b"wanted a regular expression" in done.stderr
        assert "wanted a regular expression" in last(home).errors[-1]


def test_a_pattern_that_takes_for_ever_holds_up_nothing(home: Path) -> None:
    script = "printf '%040d!\\n' 0; head -c 3000000 /dev/zero | tr '\\0' x; echo; echo end"
    before_s = time.monotonic()
    done = run(home, "--fail-if", "^(0+)+$", "nightly", *sh(script))
    assert done.stdout.endswith(b"x\nend\n")
    assert time.monotonic() - before_s < 30
    assert last(home).outcome is Outcome.OK
    assert "is not whole" in last(home).errors[0]


@pytest.mark.parametrize(
    ("script", "outcome", "reason", "counted"),
    [
        ("echo 1234 >&9", "ok", "", (1234, None)),
        ("echo bytes_stored=77 files=3 >&9", "ok", "", (None, 77)),
        ("echo 0 >&9", "failed", "no-bytes", (0, None)),
        (":", "failed", "no-byte-count", (None, None)),
        ("echo junk 99999999999999999999999 >&9", "failed", "no-byte-count", (None, None)),
        ("yes 5 | head -c 400000 >&9", "ok", "", (5, None)),
    ],
)
def test_a_count_that_is_asked_for_must_come(
    home: Path, script: str, outcome: str, reason: str, counted: tuple[int | None, int | None]
) -> None:
    run(home, "--expect-bytes", "9", "nightly", *sh(script))
    found = last(home)
    assert (found.outcome, found.reason) == (outcome, reason)
    assert (found.bytes_source, found.bytes_stored) == counted


def test_secrets_of_the_environment_and_the_arguments_do_not_leave(home: Path) -> None:
    done = subprocess.run(
        [
            *WRAP,
            "nightly",
            "--fail-if",
            "key",
            *sh('echo "key $RESTIC_PASSWORD url s3://u:pw12@h $2"'),
            "--password=tiger",
        ],
        capture_output=True,
        timeout=DEADLINE_S,
        env=environment(home, RESTIC_PASSWORD="correct-horse"),
        check=True,
    )
    assert b"correct-horse" in done.stdout
    raw = last(home).to_json()
    assert b"correct-horse" not in raw
    assert b"pw12" not in raw
    assert b"[redacted]" in raw


def test_a_record_that_cannot_be_kept_fails_no_backup_but_with_require_record(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    done = run(tmp_path, "nightly", *sh(f"touch {mark}; exit 4"))
    assert done.returncode == 4
    assert done.stderr.count(b"\n") == 1
    assert b"no agent was set up here" in done.stderr
    mark.unlink()
    done = run(tmp_path, "--require-record", "nightly", *sh(f"touch {mark}"))
    assert done.returncode == 125
    assert b"the command was not started" in done.stderr
    assert not mark.exists()


@pytest.mark.parametrize("name", ["", "../x"])
def test_a_job_of_an_impossible_name_is_backed_up_and_said_to_be_one(home: Path, name: str) -> None:
    done = run(home, name, *sh("echo ran"))
    assert (done.returncode, done.stdout) == (0, b"ran\n")
    assert b"letters, digits" in done.stderr
    assert records(home) == []


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("nightly",),
        ("nightly", "--"),
        ("nightly", "restic", "backup"),
        ("--no-such", "nightly", "--", "true"),
        ("--", "true"),
        ("--expect-bytes", "1", "nightly", "--", "true"),
        ("nightly", "true", "--", "true"),
    ],
)
def test_what_cannot_be_understood_ends_with_125(home: Path, words: tuple[str, ...]) -> None:
    assert run(home, *words).returncode == 125


def test_help_says_where_the_command_goes(home: Path) -> None:
    done = run(home, "--help")
    assert done.returncode == 0
    assert b"JOB -- COMMAND..." in done.stdout
    assert b"pipefail" in done.stdout


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_home_may_stand_anywhere_before_the_command(tmp_path: Path, place: int) -> None:
    (tmp_path / "var/agent").mkdir(parents=True)
    words = ["backup", "wrap"]
    words[place:place] = ["--home", str(tmp_path)] if place != 1 else [f"--home={tmp_path}"]
    command = [*WRAP[:-2], *words, "nightly", "--", "true"]
    subprocess.run(command, check=True, timeout=DEADLINE_S)
    assert len(records(tmp_path)) == 2


def test_hooks_of_one_process_report_one_run(home: Path) -> None:
    hook = f"{sys.executable} -m watchbill_agent backup report shop --run-of $PPID --outcome"
    for outcome in ("running", "ok"):
        subprocess.run(
            ["sh", "-c", f"{hook} {outcome}"], check=True, timeout=DEADLINE_S, env=environment(home)
        )
    begun, ended = records(home)
    assert begun.run_id == ended.run_id
    assert (begun.outcome, ended.outcome) == (Outcome.RUNNING, Outcome.OK)


def test_files_of_jobs_that_cannot_be_read_fail_no_backup(home: Path) -> None:
    (home / "etc/backups.d").mkdir(parents=True)
    (home / "etc/backups.d/a.toml").write_text("[[backup]\n")
    (home / "etc/backups.d/b.toml").mkdir()
    (home / "etc/backups.d/c.toml").write_text(PATTERNS)
    done = run(home, "nightly", *sh("echo skipped"))
    assert done.returncode == 0
    assert b"a.toml" in done.stderr
    assert b"b.toml" in done.stderr
    assert last(home).outcome is Outcome.PARTIAL


def test_on_a_terminal_the_command_has_one_and_ctrl_c_reaches_it_once(home: Path) -> None:
    script = 'test -t 0 && test -t 1 && test -t 2 && stty size; trap "echo told" INT; echo ready; sleep 30; echo out'
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Whoever runs the tests may have set it aside.
        os.execve(sys.executable, [*WRAP, "nightly", *sh(script)], environment(home))
    printed, typed = b"", False
    with contextlib.suppress(OSError):
        while piece := os.read(terminal, 4096):
            printed += piece
            if b"ready" in printed and not typed:
                # Once only: a second one could reach the wrapper when it has nothing left to do but end.
                time.sleep(0.2)
                os.write(terminal, b"\x03")
                typed = True
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert b"ready\r\n" in printed
    assert printed.count(b"told\r\n") == 1
    assert b"out\r\n" in printed
    assert b"\r\r" not in printed
    assert "ready" in last(home).tail


RESTIC = """
[[backup]]
name = "nightly"
tool = "restic"
manifest = true
source = { paths = ["SOURCE"] }
[backup.restic]
repository = "REPOSITORY"
password_file = "PASSWORD"
"""


@pytest.mark.real("restic")
def test_restic_is_read_by_its_adapter_and_its_restore_proved_by_the_bytes(home: Path) -> None:
    source, repository, password = home / "source", home / "repository", home / "password"
    source.mkdir()
    (source / "a").write_text("content")
    password.write_text("hunter22")
    tool = ("restic", "-q", "-r", str(repository), "--password-file", str(password))
    subprocess.run([*tool, "init"], check=True, timeout=DEADLINE_S, env=environment(home, HOME=str(home)))
    (home / "etc").mkdir()
    places = {"SOURCE": source, "REPOSITORY": repository, "PASSWORD": password}
    text = RESTIC
    for name, place in places.items():
        text = text.replace(f'"{name}"', f'"{place}"')
    (home / "etc/backups.toml").write_text(text)
    time.sleep(2.1)  # Younger files may have changed since the run began.
    done = run(home, "nightly", "--", *tool, "backup", "--json", str(source), str(home / "not-mounted"))
    assert done.returncode == 0, "which is restic's word for a source that is not there"
    partial = last(home)
    assert (partial.outcome, partial.reason, partial.exit_code) == (Outcome.PARTIAL, "source-missing", 0)
    run(home, "nightly", "--", *tool, "backup", "--json", str(source))
    whole = last(home)
    assert (whole.outcome, whole.tool, whole.files, whole.bytes_source) == (Outcome.OK, "restic", 1, 7)
    assert whole.snapshot_id
    assert whole.manifest_digest != ""
    subprocess.run(
        [*tool, "restore", "latest", "--target", str(home / "out")], check=True, timeout=DEADLINE_S
    )
    check = [*WRAP[:-1], "manifest", "check", "nightly", "--at", str(home / "out"), "--json"]
    found = subprocess.run(check, env=environment(home), capture_output=True, timeout=DEADLINE_S, check=True)
    assert json.loads(found.stdout)["digest"] == whole.manifest_digest
    assert last(home).manifest_digest == whole.manifest_digest
    assert last(home).verify is not None


async def test_what_was_wrapped_while_the_agent_was_down_and_up_is_at_the_collector_once(
    tmp_path: Path, collector: Any, agents: Any, enrol: Any, cli: Any
) -> None:
    home = tmp_path / "a"
    enrol(home, collector)
    assert cli(home, "backup", "wrap", "nightly", "--", "true").returncode == 0
    agents(home, 'interval = "1s"\n')
    await collector.until(lambda c: c.hellos)
    assert cli(home, "backup", "wrap", "nightly", "--", "false").returncode == 1
    kind = BACKUP_RECORD

    def told(c: Any) -> list[Record]:
        return [read_record(r.event.payload) for r in c.records(Stream.CRIT) if r.event.kind == kind]

    await collector.until(lambda c: len(told(c)) >= 4)
    patched = (
        "import sys, watchbill_agent.backups.wrap as w, watchbill_agent.entry as c; w.BEAT_EVERY_S = 0.2; "
    )
    words = ("backup", "wrap", "beats", "--", "sleep", "1")
    command = [sys.executable, "-c", f"{patched}sys.exit(c.main(list({words!r})))"]
    done = await asyncio.to_thread(subprocess.run, command, env=environment(home), timeout=DEADLINE_S)
    assert done.returncode == 0
    await collector.until(lambda c: any(one.job == "beats" and one.outcome is Outcome.OK for one in told(c)))
    beats = [one for one in told(collector) if one.job == "beats"]
    assert [one.outcome for one in beats] == ["running"] * (len(beats) - 1) + ["ok"]
    assert len(beats) >= 4, "it is told of while it goes on"
    assert len({one.run_id for one in beats}) == 1
    found = [one for one in told(collector) if one.job == "nightly"]
    assert [record.outcome for record in found] == ["running", "ok", "running", "failed"]
    assert len({record.run_id for record in found}) == 2
    assert records(home) == []
    assert json.loads(cli(home, "status", "--json").stdout)["link"]["state"] == "connected"
