"""A PostgreSQL of its own, with pgBackRest and barman beside it. Their user is not root, as all three demand."""

import contextlib
import os
import platform
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from watchbill.backups.definition import Definition
from watchbill_agent.backups.adapter import Finished, Job
from watchbill_agent.backups.command import HostCommands

POSTGRESQL_BIN = Path("/usr/lib/postgresql/15/bin")
SERVER_USER = "postgres"
STANZA = SERVER = "demo"
PORT = 5432
"""Of the name of the socket alone: nothing listens on the network."""
COMMAND_S = 60.0
NO_SYNC = Path(f"/usr/lib/{platform.machine()}-linux-gnu/libeatmydata.so")
"""Backups sync each of a thousand files: on a busy disk that is most of the time that these tests take."""
BIN_SH = "#!/bin/sh\n"


def job(tool: str) -> Job:
    return Job(name="db", definition=Definition(name="db", tool=tool))


def commands(place: Path, whole_s: float = COMMAND_S) -> HostCommands:
    return HostCommands(place, whole_s)


@dataclass
class Cluster:
    """`bin` holds pgbackrest and barman as the server's user runs them."""

    place: Path
    started: bool = False
    bin: Path = field(init=False)
    pgbackrest_conf: Path = field(init=False)
    barman_conf: Path = field(init=False)

    def __post_init__(self) -> None:
        self.bin = self.place / "bin"
        self.pgbackrest_conf = self.place / "pgbackrest.conf"
        self.barman_conf = self.place / "barman.conf"

    # ---- running

    def run(self, *argv: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """As the server's user, in its environment."""
        done = subprocess.run(argv, capture_output=True, text=True, timeout=COMMAND_S, **self._as_server())
        assert not check or done.returncode == 0, (argv, done.stdout, done.stderr)
        return done

    @contextlib.contextmanager
    def running(self, *argv: str | Path) -> Iterator["subprocess.Popen[bytes]"]:
        """A command in a group of its own, that is gone afterwards."""
        silent = subprocess.DEVNULL
        process = subprocess.Popen(
            argv, stdout=silent, stderr=silent, start_new_session=True, **self._as_server()
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _as_server(self) -> dict[str, Any]:
        environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC", "HOME": str(self.place)}
        if NO_SYNC.exists():
            environment["LD_PRELOAD"] = str(NO_SYNC)
        here: dict[str, Any] = {"cwd": self.place, "env": environment}
        if os.geteuid() == 0:
            here |= {"user": SERVER_USER, "group": SERVER_USER, "extra_groups": []}
        return here

    def sql(self, *statements: str) -> str:
        """Each in a transaction of its own."""
        asked = [part for statement in statements for part in ("-c", statement)]
        psql = ("psql", "-h", self.place, "-p", str(PORT), "-U", "postgres", "-qAt")
        return self.run(POSTGRESQL_BIN / psql[0], *psql[1:], *asked).stdout.strip()

    def pgbackrest(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        fixed = (f"--config={self.pgbackrest_conf}", f"--stanza={STANZA}")
        return self.run("pgbackrest", *fixed, *arguments, check=check)

    def barman(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("barman", "-c", self.barman_conf, *arguments, check=check)

    # ---- starting and stopping

    def start(self) -> None:
        """A server whose segments are of 1 MiB: another size than tools and people expect, and quick to fill."""
        if os.geteuid() == 0:
            shutil.chown(self.place, SERVER_USER, SERVER_USER)
        self._write_programs()
        data = self.place / "data"
        self.run(
            POSTGRESQL_BIN / "initdb",
            "-D",
            data,
            "-A",
            "trust",
            "-U",
            "postgres",
            "-k",
            "-N",
            "--wal-segsize=1",
        )
        archive = f"pgbackrest --config={self.pgbackrest_conf} --stanza={STANZA} archive-push %p"
        self.write(
            data / "postgresql.auto.conf",
            f"listen_addresses = ''\nunix_socket_directories = '{self.place}'\nport = {PORT}\nfsync = off\n"
            f"archive_mode = on\narchive_command = '{archive}'\nmax_wal_size = '64MB'\nmin_wal_size = '2MB'\n",
        )
        self._write_pgbackrest_conf()
        self._write_barman_conf()
        self.run(
            POSTGRESQL_BIN / "pg_ctl", "-D", data, "-w", "-t", "30", "-l", self.place / "server.log", "start"
        )
        self.started = True

    def stop(self) -> None:
        if self.started:
            self.run(POSTGRESQL_BIN / "pg_ctl", "-D", self.place / "data", "-m", "immediate", "-w", "stop")

    def write(self, path: Path, text: str) -> None:
        """For the server's user to read."""
        path.write_text(text)
        if os.geteuid() == 0:
            shutil.chown(path, SERVER_USER, SERVER_USER)

    def _write_programs(self) -> None:
        self.bin.mkdir()
        drop = (
            f"setpriv --reuid={SERVER_USER} --regid={SERVER_USER} --clear-groups "
            if os.geteuid() == 0
            else ""
        )
        for name in ("pgbackrest", "barman"):
            self.program(name, f'exec {drop}/usr/bin/{name} "$@"')

    def program(self, name: str, script: str) -> str:
        """A program that does what the script says; returns its path."""
        path = self.bin / name
        path.write_text(f"{BIN_SH}{script}\n")
        path.chmod(0o755)
        return str(path)

    def _write_pgbackrest_conf(self) -> None:
        place = self.place
        self.write(
            self.pgbackrest_conf,
            f"[global]\nrepo1-path={place}/repo\nrepo1-retention-full=9\nlog-path={place}/log\nlock-path={place}/lock\n"
            f"spool-path={place}/spool\nstart-fast=y\narchive-timeout=30\n"
            f"[{STANZA}]\npg1-path={place}/data\npg1-socket-path={place}\npg1-port={PORT}\n",
        )
        self.run("mkdir", "repo", "log", "lock", "spool")

    def _write_barman_conf(self) -> None:
        place = self.place
        user = SERVER_USER if os.geteuid() == 0 else self.run("id", "-un").stdout.strip()
        reach = f"host={place} port={PORT} user=postgres"
        self.write(
            self.barman_conf,
            f"[barman]\nbarman_user = {user}\nbarman_home = {place}/barman\n"
            f"configuration_files_directory = {place}/barman.d\n"
            f"barman_lock_directory = {place}/barman-locks\nlog_file = {place}/barman.log\n"
            f"[{SERVER}]\ndescription = demo\nconninfo = {reach} dbname=postgres\nstreaming_conninfo = {reach}\n"
            f"backup_method = postgres\narchiver = off\nstreaming_archiver = on\n"
            f"slot_name = barman\ncreate_slot = auto\n"
            f"path_prefix = {POSTGRESQL_BIN}\nminimum_redundancy = 1\n",
        )
        self.run("mkdir", "barman", "barman.d", "barman-locks")


# ---------------------------------------------------------------- damage that is repaired again


@contextlib.contextmanager
def gone(*paths: Path) -> Iterator[None]:
    """Files that are somewhere else meanwhile: under another name beside it some tools still take one for it."""
    with tempfile.TemporaryDirectory() as elsewhere:
        moved = [(path, Path(elsewhere) / str(number)) for number, path in enumerate(paths)]
        for path, place in moved:
            path.rename(place)
        try:
            yield
        finally:
            for path, place in moved:
                place.rename(path)


@contextlib.contextmanager
def replaced(path: Path, content: bytes) -> Iterator[None]:
    """A file that says something else meanwhile; its owner and mode stay."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)


@contextlib.contextmanager
def closed(path: Path) -> Iterator[None]:
    """What nobody may read meanwhile, but root."""
    mode = path.stat().st_mode
    path.chmod(0)
    try:
        yield
    finally:
        path.chmod(mode)


def flipped(content: bytes, at: int = 20) -> bytes:
    """With one byte turned over."""
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


class Scripted:
    """Commands of which a test knows what they print; the last one is repeated."""

    def __init__(self, *answers: Finished) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[str, ...]] = []

    def run(self, argv: tuple[str, ...], **_: object) -> Finished:
        self.asked.append(tuple(argv))
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
