"""What runs, as whom, with what; and that nothing it does keeps root busy or is left behind."""

import hashlib
import json
import os
import pwd
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from watchbill.actions.order import Ask, Cancel, Purpose
from watchbill.actions.outcomes import TOLD_BYTES_MAX, Outcome, State
from watchbill_agent.runner import tree
from watchbill_agent.runner.capture import Capture, told
from watchbill_agent.runner.core import Runner
from watchbill_agent.runner.launching import UnitLauncher, executor

from .conftest import ENDS_S, Host, ended, said

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")


def run(host: Host, body: str, argv: list[str] | None = None, more: str = "", **changes: Any) -> Any:
    """A program of the host run to its end."""
    tool = host.script("tool", body)
    host.action("go", [str(tool), *(argv or [])], "repeat", more)
    runner = host.runner()
    runner.order(host.signed(host.command("go", **changes)))
    return ended(runner)


SHOW = """
import json, os, resource, sys
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
print(json.dumps({
    "env": dict(os.environ), "argv": sys.argv[1:], "cwd": os.getcwd(), "uid": os.getuid(), "euid": os.geteuid(),
    "groups": os.getgroups(), "fds": sorted(int(n) for n in os.listdir("/proc/self/fd"))[:-1],
    "stdin": os.readlink("/proc/self/fd/0"), "sid": os.getsid(0) == os.getpid(), "nnp": status["NoNewPrivs"],
    "core": resource.getrlimit(resource.RLIMIT_CORE), "blocked": status["SigBlk"], "ignored": status["SigIgn"],
}))
"""


def test_a_program_gets_its_arguments_as_they_are_and_nothing_of_ours(host: Host, monkeypatch: Any) -> None:
    monkeypatch.setenv("LD_PRELOAD_NOT", "ours")
    hostile = "$X %n `id` ; rm -rf / && $(reboot)"
    found = run(
        host,
        SHOW,
        ["{{text}}", "--", "$HOME %i"],
        'args.text = { type = "string" }',
        arguments={"text": hostile},
    )
    assert (found.outcome, found.exit_code, found.errors) == (Outcome.OK, 0, "")
    saw = json.loads(found.output)
    own = pwd.getpwuid(os.geteuid())
    asked = host.command("go", arguments={"text": hostile})
    assert saw["argv"] == [hostile, "--", "$HOME %i"]
    assert saw["env"] == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": own.pw_dir,
        "USER": own.pw_name,
        "LOGNAME": own.pw_name,
        "WATCHBILL_RUN": asked.run,
        "WATCHBILL_STEP": asked.step,
        "WATCHBILL_KEY": host.key(asked),
    } | {name: value for name, value in saw["env"].items() if name == "LC_CTYPE"}
    assert (saw["cwd"], saw["stdin"], saw["fds"]) == ("/", "/dev/null", [0, 1, 2])
    assert (saw["sid"], saw["nnp"], saw["core"]) == (True, "1", [0, 0])
    assert int(saw["blocked"], 16) == 0
    ignored = {number for number in signal.valid_signals() if int(saw["ignored"], 16) >> (number - 1) & 1}
    assert ignored == {signal.SIGPIPE, signal.SIGXFSZ}, "python itself ignores these"
    assert found.output_digest == hashlib.sha256(found.output.encode()).hexdigest()


@needs_root
def test_a_program_runs_as_its_user_with_that_users_groups(host: Host) -> None:
    host.action("go", ["/usr/bin/id", "-G"], "read", 'run_as = "nobody"')
    host.action("who", ["/usr/bin/env"], "read", 'run_as = "nobody"')
    runner = host.runner()
    for action in ("go", "who"):
        runner.order(host.signed(host.command(action)))
    nobody = pwd.getpwnam("nobody")
    groups = ended(runner, host.key(host.command("go"))).output.split()
    assert groups == [str(one) for one in os.getgrouplist("nobody", nobody.pw_gid)], "none of root's"
    assert f"HOME={nobody.pw_dir}\n" in ended(runner, host.key(host.command("who"))).output


def test_a_binary_is_run_by_its_open_file_and_called_by_its_name(host: Host) -> None:
    host.action("go", ["/bin/cat", "/proc/self/cmdline"], "read")
    runner = host.runner()
    runner.order(host.signed(host.command("go", purpose=Purpose.PREFLIGHT)))
    assert ended(runner).output == "/bin/cat\0/proc/self/cmdline\0"


def test_failing_and_dying_are_told_apart(host: Host) -> None:
    found = run(host, "import sys; sys.exit(255)")
    assert (found.outcome, found.exit_code, found.signal) == (Outcome.FAILED, 255, None)
    host.script("tool", "import os; os.kill(os.getpid(), 11)")
    runner = host.runner()
    runner.order(host.signed(host.command("go", attempt=2)))
    found = ended(runner, host.key(host.command("go", attempt=2)))
    assert (found.outcome, found.exit_code, found.signal) == (Outcome.FAILED, None, 11)


def test_a_program_that_cannot_be_begun_says_why(host: Host) -> None:
    tool = host.root / "tool"
    tool.write_bytes(b"\x7fELF not one")
    tool.chmod(0o755)
    host.action("go", [str(tool)], "repeat")
    runner = host.runner()
    runner.order(host.signed(host.command("go")))
    found = ended(runner)
    assert (found.outcome, found.exit_code) == (Outcome.FAILED, None)
    assert "exec format error" in found.detail


FLOOD = """
import os
piece = b"x" * (1 << 20)
for _ in range(1024):
    os.write(1, piece)
"""


def test_a_gigabyte_without_a_line_end_is_counted_and_its_beginning_kept(host: Host) -> None:
    found = run(host, FLOOD, more='output_max = "10KiB"')
    assert (found.outcome, found.output_bytes, found.whole) == (Outcome.OK, 1 << 30, False)
    assert found.output == "x" * (10 * 1024)


def test_what_is_no_text_fits_its_event(host: Host) -> None:
    found = run(host, "import os; os.write(1, bytes(range(256)) * 256); os.write(2, b'\\x00' * 60000)")
    assert len(found.to_json()) < 64 * 1024
    assert (found.whole, found.output_bytes) == (False, 65536 + 60000)
    assert found.errors, "stderr has its share"


TREE = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def away():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            open(sys.argv[1], "a").write(f"{os.getpid()}\\n")
            time.sleep(600)
        os._exit(0)
for _ in range(3):
    away()
while open(sys.argv[1], "a+").tell() == 0 or len(open(sys.argv[1]).readlines()) < 3:
    time.sleep(0.01)
print("ready", flush=True)
"""


def gone(pids: Path) -> bool:
    return all(tree.born(int(line)) == 0 for line in pids.read_text().split())


def test_what_never_ends_is_ended_with_all_that_it_forked_away(host: Host) -> None:
    pids = host.root / "pids"
    found = run(host, TREE + "time.sleep(600)\n", [str(pids)], 'timeout = "1s"\nkill_grace = "1s"')
    assert (found.outcome, found.signal, found.output) == (Outcome.TIMEOUT, signal.SIGKILL, "ready\n")
    assert len(pids.read_text().split()) == 3
    assert gone(pids)


def test_what_a_program_leaves_running_ends_with_it_and_keeps_nothing_open(host: Host) -> None:
    pids = host.root / "pids"
    found = run(host, TREE.replace("signal.signal(signal.SIGTERM, signal.SIG_IGN)", ""), [str(pids)])
    assert (found.outcome, found.exit_code, found.output) == (Outcome.OK, 0, "ready\n")
    assert gone(pids)


def test_a_program_that_closes_everything_is_waited_for_all_the_same(host: Host) -> None:
    found = run(host, "import os, time; os.closerange(0, 100); time.sleep(0.3); os._exit(7)")
    assert (found.outcome, found.exit_code) == (Outcome.FAILED, 7)


def wait(look: Any) -> None:
    until_s = time.monotonic() + ENDS_S
    while not look():
        assert time.monotonic() < until_s
        time.sleep(0.01)


def test_a_cancelled_command_is_ended_and_told_as_such(host: Host) -> None:
    begun = host.root / "begun"
    tool = host.script("tool", f"import time; open({str(begun)!r}, 'w'); time.sleep(600)")
    host.action("go", [str(tool)], "once")
    runner = host.runner()
    command = host.command("go")
    runner.order(host.signed(command))
    # At once: its supervisor has not even begun. It is not forgotten.
    assert runner.order(host.signed(Cancel(host.key(command)))).events == []
    assert ended(runner).outcome is Outcome.CANCELLED
    (states,) = said(runner.order(host.signed(Cancel(host.key(command)))).events)
    assert states.states == {host.key(command): State.FINISHED}, "nothing else would answer"


def test_the_agent_and_the_runner_may_die_and_the_action_goes_on(host: Host) -> None:
    """A new runner adopts it by its key, and never begins it again."""
    counter = host.root / "counter"
    tool = host.script(
        "tool", f"import time; open({str(counter)!r}, 'a').write('once '); time.sleep(1); print('done')"
    )
    host.action("go", [str(tool)], "once")
    command = host.command("go")
    child = os.fork()
    if child == 0:
        Runner(host.homes, os.geteuid(), host.clock, host.runner()._launcher).order(host.signed(command))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    host.counter += 1
    wait(counter.exists)
    runner = host.runner()
    assert runner.running == 1
    (states,) = said(runner.order(host.signed(Ask("q", (host.key(command),)))).events)
    assert states.states == {host.key(command): State.RUNNING}
    runner.order(host.signed(command))
    found = ended(runner)
    assert (found.outcome, found.output) == (Outcome.OK, "done\n")
    assert counter.read_text() == "once "


def test_a_supervisor_that_is_killed_takes_its_command_along_and_nobody_guesses(host: Host) -> None:
    pid = host.root / "pid"
    tool = host.script(
        "tool", f"import os, time; open({str(pid)!r}, 'w').write(str(os.getppid())); time.sleep(600)"
    )
    host.action("go", [str(tool)], "once")
    runner = host.runner()
    runner.order(host.signed(host.command("go")))
    wait(lambda: pid.exists() and pid.read_text())
    supervisor = int(pid.read_text())
    below = tree.below(supervisor)
    os.kill(supervisor, signal.SIGKILL)
    found = ended(runner)
    assert (found.outcome, found.exit_code) == (Outcome.INTERRUPTED, None)
    wait(lambda: all(tree.born(one) == 0 for one in below))


def test_after_a_reboot_what_had_begun_is_interrupted(host: Host) -> None:
    from .conftest import Nobody

    host.action("go", ["/bin/true"], "once")
    runner = host.runner(launcher=Nobody(), boot="before")
    runner.order(host.signed(host.command("go")))
    runner.close()
    runner = host.runner(boot="after")
    assert ended(runner).outcome is Outcome.INTERRUPTED
    runner.confirm([event.id for event in runner.waiting()])
    runner.order(host.signed(host.command("go")))
    assert ended(runner).outcome is Outcome.INTERRUPTED, "it is not run again"


def test_secrets_come_by_the_environment_and_do_not_come_back(host: Host) -> None:
    secret = host.root / "secret"
    secret.write_text("hunter2hunter2\n")
    secret.chmod(0o600)
    place = host.homes.etc / "credentials" / "runner"
    place.mkdir(parents=True)
    (place / "token").write_text("t0ps3cret")
    (place / "token").chmod(0o600)
    more = f'[action.secrets]\nPGPASSWORD = "{secret}"\nTOKEN = "credential:token"'
    body = """
import os, sys, time
word = os.environ["PGPASSWORD"]
sys.stdout.write("a" + word[:5]); sys.stdout.flush(); time.sleep(0.1)
sys.stdout.write(word[5:] + "b" + os.environ["TOKEN"]); sys.stdout.flush()
sys.stderr.write(os.environ["TOKEN"])
"""
    found = run(host, body, more=more)
    assert (found.output, found.errors) == ("a***b***", "***")
    assert found.output_digest == hashlib.sha256(b"a***b***").hexdigest(), "no way to guess them"
    for path in host.homes.var.iterdir():
        assert b"hunter2" not in path.read_bytes()


@pytest.mark.parametrize("spoil", ["mode", "link", "empty", "gone"])
def test_a_secret_that_others_could_read_is_not_used(host: Host, spoil: str) -> None:
    secret = host.root / "secret"
    secret.write_text("" if spoil == "empty" else "word")
    secret.chmod(0o644 if spoil == "mode" else 0o600)
    if spoil in ("link", "gone"):
        secret.rename(host.root / "other")
    if spoil == "link":
        secret.symlink_to(host.root / "other")
    found = run(host, "print('ran')", more=f'[action.secrets]\nPGPASSWORD = "{secret}"')
    assert (found.outcome, found.output) == (Outcome.FAILED, "")
    assert "the secret PGPASSWORD" in found.detail


@pytest.mark.parametrize("size", range(1, 8))
def test_a_secret_is_hidden_however_it_is_cut_and_the_longest_first(size: int) -> None:
    text = b"..abcdef..cd..abcde"
    capture = Capture(100, [b"abcdef", b"cd"])
    for place in range(0, len(text), size):
        capture.add(text[place : place + size])
    capture.end()
    assert bytes(capture.kept) == b"..***..***..ab***e"


def test_what_is_told_stays_within_its_bounds_and_says_when_it_is_not_all() -> None:
    def filled(content: bytes) -> Capture:
        capture = Capture(65536)
        capture.add(content)
        capture.end()
        return capture

    assert told(filled(b"out"), filled(b"err"), 65536) == ("out", "err", True)
    output, errors, whole = told(filled(b"\0" * 70000), filled(b'"' * 70000), 65536)
    assert not whole
    assert len(json.dumps(output)) + len(json.dumps(errors)) <= TOLD_BYTES_MAX
    assert len(output) > 1000
    assert len(errors) > 1000
    output, errors, whole = told(filled(b"x" * 10), filled(b"y" * 10), 12)
    assert (output, errors, whole) == ("x" * 9, "y" * 3, False)


def test_a_unit_of_systemds_gets_the_key_alone() -> None:
    """systemd replaces $X and %x in a command line: none of what an order says is in it. It is not process 1 where this
    is tested, so what would be asked of it is looked at."""
    from watchbill_agent.runner.job import Task

    asked: list[list[str]] = []

    class Done:
        returncode, stderr = 0, b""

    def record(argv: list[str], **_: Any) -> Any:
        asked.append(argv)
        return Done

    task = Task(
        argv=("/bin/echo", "$X %n"),
        run_as="postgres",
        owner=0,
        timeout_s=60,
        kill_grace_s=5,
        output_max=10,
        secrets={"A": "credential:token", "B": "/etc/secret"},
    )
    UnitLauncher(Path("/etc/watchbill"), record).start("ab" * 32, task)
    (argv,) = asked
    assert argv[0] == "/usr/bin/systemd-run"
    assert argv[argv.index("--") + 1 :] == [*executor(None), "ab" * 32]
    assert f"--unit=watchbill-cmd-{'ab' * 32}" in argv
    assert "--property=LoadCredential=token:/etc/watchbill/credentials/runner/token" in argv
    assert "--property=KillMode=control-group" in argv
    assert "--property=RuntimeMaxSec=125" in argv
    assert not any("echo" in one or "$" in one or "%" in one for one in argv)
