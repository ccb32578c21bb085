"""Repositories of root's, mode 0700, that an agent without rights reads through the runner: by the shipped examples of
observe.d, the real restic and the real borg. The runner serves as root; the adapter is in a process that became nobody.
"""

import asyncio
import multiprocessing
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from watchbill.actions.files import load_allowed
from watchbill.backups.definition import Definition
from watchbill.backups.record import Level, Outcome
from watchbill.homes import Homes
from watchbill_agent.backups.adapter import Adapter, Check, Commands, Job, Observation, Verification
from watchbill_agent.backups.adapters.borg import Borg
from watchbill_agent.backups.adapters.borg import Options as BorgOptions
from watchbill_agent.backups.adapters.restic import Options as ResticOptions
from watchbill_agent.backups.adapters.restic import Restic
from watchbill_agent.backups.child import _with_hint
from watchbill_agent.backups.command import HostCommands
from watchbill_agent.backups.through_runner import ThroughRunner
from watchbill_agent.runner import bounds, service

pytestmark = [
    pytest.mark.real("restic", "borg"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root has what nobody may read"),
]

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples" / "observe"
NOBODY = 65534
SOME_BYTES = 50_000
FORK = multiprocessing.get_context("fork")
Look = Callable[[Commands], Any]


@dataclass
class House:
    """Both repositories, the host that holds them, and where an agent without rights may write."""

    place: Path
    homes: Homes

    @property
    def restic(self) -> dict[str, Any]:
        return {"repository": str(self.place / "root/restic"), "password_file": self.place / "root/password"}

    @property
    def borg(self) -> dict[str, Any]:
        return {"repository": str(self.place / "root/borg"), "passphrase_file": self.place / "root/password"}

    def allow(self, *names: str) -> None:
        """What root lets be read: of the shipped examples those of these names, with this host's places."""
        shutil.rmtree(self.homes.etc / "observe.d", ignore_errors=True)
        (self.homes.etc / "observe.d").mkdir(parents=True)
        for tool in ("restic", "borg"):
            text = (EXAMPLES / f"{tool}.toml").read_text()
            root = self.place / "root"
            for place in ("restic-password", "borg-passphrase"):
                text = text.replace(f"/root/{place}", str(root / "password"))
            text = text.replace("/srv", str(root)).replace('"web1"', f'"{socket.gethostname()}"')
            head, *entries = text.split("[[observe]]\n")
            kept = [one for one in entries if one.partition('"')[2].partition('"')[0] in names]
            (self.homes.etc / "observe.d" / f"{tool}.toml").write_text("[[observe]]\n".join([head, *kept]))
        allowed = load_allowed(self.homes.etc, 0)
        assert (set(allowed.observes), allowed.faults) == (set(names), ())

    def as_nobody(self, look: Look) -> Any:
        """What a look says that is made in a process without rights."""
        ours, theirs = FORK.Pipe(duplex=False)

        def become() -> None:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            commands = ThroughRunner(
                HostCommands(self.place / "scratch", 60.0), self.homes.etc, self.homes.run / "runner.sock"
            )
            theirs.send(_with_hint(look(commands), commands))

        process = FORK.Process(target=become)
        process.start()
        try:
            assert ours.poll(60), "it says nothing"
            return ours.recv()
        finally:
            process.join(10)
            process.kill()


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    place = Path(tempfile.mkdtemp(prefix="root-"))
    place.chmod(0o755)
    (place / "root").mkdir(mode=0o700)
    (place / "scratch").mkdir()
    os.chown(place / "scratch", NOBODY, NOBODY)
    (place / "source").mkdir()
    (place / "source/big").write_bytes(os.urandom(SOME_BYTES))
    (place / "root/password").write_text("tr0ub4dor")
    found = House(place, Homes.resolve("runner", place / "home", {}))
    restic = (
        "restic",
        "-r",
        found.restic["repository"],
        "--password-file",
        place / "root/password",
        "--no-cache",
    )
    borg = {
        "PATH": os.environ["PATH"],
        "BORG_REPO": found.borg["repository"],
        "BORG_PASSCOMMAND": f"cat {place}/root/password",
        "TZ": "Asia/Tokyo",
    }
    for argv, env in (
        ((*restic, "init"), None),
        ((*restic, "backup", "source"), None),
        (("borg", "init", "-e", "repokey-blake2"), borg),
        (("borg", "create", "::web1-1", "source"), borg),
        (("borg", "create", "::other-1", "source"), borg),
    ):
        subprocess.run(argv, check=True, capture_output=True, timeout=60, cwd=place, env=env)
    yield found
    shutil.rmtree(place)


@pytest.fixture
async def serving(house: House, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    """A runner of root's that takes nobody for the agent's user."""
    monkeypatch.setattr(service, "_speakers", lambda _: frozenset({0, NOBODY}))
    made = service.Service(house.homes, house.place / "home")
    path = house.homes.run / "runner.sock"
    listening = service.own_socket(path, house.place / "home")
    path.chmod(0o666)
    for above in (house.place / "home", house.homes.run.parent, house.homes.run):
        above.chmod(0o755)
    server = await asyncio.start_unix_server(made._serve, sock=listening, limit=bounds.FRAME_BYTES_MAX)
    yield house
    server.close()
    await made.close()
    path.unlink()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def looking(kind: type[Adapter], options: Mapping[str, Any], level: Level | None = None) -> Look:
    """One look, or one verification."""

    def look(commands: Commands) -> Observation | Verification:
        job = Job(name="files", definition=Definition(name="files", tool=kind.name))
        adapter = kind(kind.options_type(**options), job, commands)
        check = None if level is None else Check(level=level, part=2, parts=3)
        return adapter.observe(now_ms()) if check is None else adapter.verify(check, now_ms())

    return look


def restic(house: House, level: Level | None = None, **options: Any) -> Look:
    return looking(Restic, {**house.restic, "runner": True, **options}, level)


def borg(house: House, level: Level | None = None, **options: Any) -> Look:
    return looking(Borg, {**house.borg, "runner": True, "archives": "web1-*", **options}, level)


RESTIC = ("restic.snapshots", "restic.config", "restic.locks", "restic.size", "restic.check", "restic.data")


async def test_what_root_lets_be_read_is_read_by_an_agent_without_rights(serving: House) -> None:
    serving.allow(*RESTIC, "borg.archives", "borg.size")
    seen: Observation = await asyncio.to_thread(serving.as_nobody, restic(serving))
    assert (seen.outcome, seen.reason, seen.errors) == (Outcome.OK, "", ())
    assert (len(seen.snapshots), seen.bytes_source, seen.repo_locked) == (1, SOME_BYTES, False)
    assert len(seen.repo_id) == 64
    assert now_ms() - 600_000 < seen.snapshots[0].time_ms <= now_ms()
    seen = await asyncio.to_thread(serving.as_nobody, borg(serving, sizes=True))
    assert (seen.outcome, seen.reason, seen.errors) == (Outcome.OK, "", ())
    assert (len(seen.snapshots), seen.bytes_source, seen.files) == (1, SOME_BYTES, 1)
    assert (seen.repo_locked, len(seen.repo_id)) == (None, 64)
    assert now_ms() - 600_000 < seen.snapshots[0].time_ms <= now_ms(), "in UTC, though it was made in Tokyo"


async def test_what_root_does_not_let_be_read_is_needs_runner_with_the_words_to_write(serving: House) -> None:
    serving.allow()
    for look, words in ((restic(serving), '"snapshots", "--json"'), (borg(serving), '"list", "--json"')):
        seen: Observation = await asyncio.to_thread(serving.as_nobody, look)
        assert (seen.outcome, seen.reason) == (Outcome.UNKNOWN, "needs-runner"), seen.errors
        hint = seen.errors[0]
        assert hint.startswith("or let the runner read it: observe.d, argv = ["), hint
        assert words in hint
        assert "tr0ub4dor" not in hint
        assert str(serving.place / "scratch") not in hint, "root would write where the agent may"
    serving.allow("restic.snapshots")
    seen = await asyncio.to_thread(serving.as_nobody, restic(serving))
    assert (seen.outcome, len(seen.snapshots)) == (Outcome.PARTIAL, 1), seen.errors


async def test_what_is_the_same_command_each_time_is_verified_and_all_else_says_so_in_a_word(
    serving: House,
) -> None:
    serving.allow(*RESTIC, "borg.archives")
    for level in (Level.STRUCTURE, Level.DATA):
        found: Verification = await asyncio.to_thread(serving.as_nobody, restic(serving, level))
        assert (found.outcome, found.reason) == (Outcome.OK, ""), found.errors
        assert found.proof is not None
        assert (found.proof.ok, found.proof.fraction) == (True, 1.0), "not a part: all of it"
    for look in (
        restic(serving, Level.RESTORE, restore_dir=serving.place / "scratch"),
        borg(serving, Level.DATA),
    ):
        found = await asyncio.to_thread(serving.as_nobody, look)
        assert (found.outcome, found.reason, found.proof) == (Outcome.UNKNOWN, "not-through-runner", None)
        assert "backup report --kind verify" in found.errors[0]


def _backing_up(repository: Path, password: Path) -> "subprocess.Popen[bytes]":
    """A backup that goes on, and holds its lock."""
    argv = ("restic", "-r", repository, "--password-file", password, "--no-cache", "backup", "--stdin")
    nowhere = subprocess.DEVNULL
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=nowhere, stderr=nowhere)
    until_s = time.monotonic() + 30
    while not any(len(path.name) == 64 for path in (repository / "locks").iterdir()):
        assert time.monotonic() < until_s
        time.sleep(0.02)
    return process


async def test_damage_and_locks_are_seen_through_it_too(serving: House) -> None:
    serving.allow("restic.snapshots", "restic.locks", "restic.data")
    repository = Path(serving.restic["repository"])
    pack = max((repository / "data").glob("*/*"), key=lambda path: path.stat().st_size)
    whole = pack.read_bytes()
    reading = await asyncio.to_thread(_backing_up, repository, serving.place / "root/password")
    try:
        pack.chmod(0o600)
        pack.write_bytes(whole[:-100] + bytes(100))
        seen: Observation = await asyncio.to_thread(serving.as_nobody, restic(serving, sizes="none"))
        assert (seen.repo_locked, seen.running) == (True, False), (
            "whose it is would be another command each time"
        )
        found: Verification = await asyncio.to_thread(serving.as_nobody, restic(serving, Level.DATA))
        assert (found.outcome, found.reason) == (Outcome.UNKNOWN, "repository-busy")
    finally:
        reading.kill()
        reading.communicate()
    for lock in (repository / "locks").iterdir():
        lock.unlink()
    found = await asyncio.to_thread(serving.as_nobody, restic(serving, Level.DATA))
    assert (found.outcome, found.reason) == (Outcome.FAILED, "repository-damaged")
    pack.write_bytes(whole)


def test_a_password_in_an_address_or_a_command_does_not_go_into_observe_d() -> None:
    file = Path("/root/password")
    rest = ResticOptions(repository="rest:https://me:secret@example/", password_file=file, runner=True)
    assert [wrong.key for wrong in rest.check()] == ["repository"]
    cloud = ResticOptions(
        repository="s3:s3.example/b", password_file=file, environment_file=file, runner=True
    )
    assert [wrong.key for wrong in cloud.check()] == ["environment_file"]
    printed = ResticOptions(repository="/srv/restic", password_command="echo secret", runner=True)
    assert [wrong.key for wrong in printed.check()] == ["password_command"]
    printed_too = BorgOptions(repository="/srv/borg", passcommand="echo secret", runner=True)
    assert [wrong.key for wrong in printed_too.check()] == ["passcommand"]
    over_ssh = BorgOptions(repository="ssh://me:secret@example/x", runner=True)
    assert [wrong.key for wrong in over_ssh.check()] == ["repository"]
