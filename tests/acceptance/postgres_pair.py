"""Two real PostgreSQL clusters, one streaming from the other, with what the example actions are told of them."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

BIN: Final = Path("/usr/lib/postgresql/15/bin")
USER: Final = "postgres"
EXAMPLES: Final = Path(__file__).parents[2] / "docs" / "examples"
INSTALLED: Final = "/usr/local/lib/watchbill/actions"
CONFIGURED: Final = "/etc/watchbill/pg.toml"
COMMAND_S: Final = 60.0
ASK: Final = '#!/bin/sh\ntouch "$1"\n'
SETTINGS: Final = """\
listen_addresses = ''
fsync = off
wal_log_hints = on
wal_keep_size = '64MB'
shared_buffers = '16MB'
max_connections = 20
logging_collector = off
"""
CONFIG: Final = """\
[cluster]
name = "{name}"
data = "{place}/{name}/data"
bin = "{bin}"
socket = "{place}/{name}"
start = ["{place}/ask", "{place}/wanted/{name}"]
[peers]
db1 = "host={place}/db1 port=5432 user=postgres"
db2 = "host={place}/db2 port=5432 user=postgres"
[fence]
marks = "{place}/marks"
[fence.nodes.db1]
data = "{place}/db1/data"
[proxy]
file = "{place}/primary.ini"
line = "* = {{to}}"
"""


class Pair:
    """db1, the primary, and db2. What systemd is elsewhere is a thread here: it starts a cluster that was asked for."""

    def __init__(self) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="pair-"))
        self.place.chmod(0o755)
        for name in ("wanted", "marks", "bin"):
            (self.place / name).mkdir()
        for name in ("db1", "db2"):
            (self.place / name).mkdir()
            if os.geteuid() == 0:
                shutil.chown(self.place / name, USER, USER)
        (self.place / "ask").write_text(ASK)
        (self.place / "ask").chmod(0o755)
        for program in (EXAMPLES / "actions" / "bin").glob("*.py"):
            shutil.copy(program, self.place / "bin")
        self._end = threading.Event()
        self._services = threading.Thread(target=self._serve, daemon=True)
        self._services.start()

    def close(self) -> None:
        """End everything."""
        self._end.set()
        self._services.join()
        for name in ("db1", "db2"):
            self.kill(name)
        shutil.rmtree(self.place)

    def begin(self) -> None:
        """A primary, and a standby that streams from it."""
        first = self.place / "db1" / "data"
        self.run(BIN / "initdb", "-D", first, "-A", "trust", "-U", "postgres", "-N")
        with open(first / "postgresql.conf", "a") as file:
            file.write(SETTINGS)
        self.start("db1")
        source = f"host={self.place}/db1 port=5432 user=postgres"
        second = self.place / "db2" / "data"
        self.run(BIN / "pg_basebackup", "-D", second, "-d", source, "-R", "-N", "-c", "fast")
        self.start("db2")

    def actions(self, name: str) -> str:
        """The shipped actions, of programs and a configuration that lie here."""
        config = self.place / f"{name}.toml"
        config.write_text(CONFIG.format(name=name, place=self.place, bin=BIN))
        text = (EXAMPLES / "actions" / "postgresql.toml").read_text()
        text = text.replace(INSTALLED, str(self.place / "bin")).replace(CONFIGURED, str(config))
        return text if os.geteuid() == 0 else text.replace('run_as = "postgres"\n', "")

    def run(self, *argv: str | Path) -> str:
        """As the server's user."""
        here: dict[str, Any] = {"user": USER, "group": USER, "extra_groups": []} if os.geteuid() == 0 else {}
        environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "HOME": str(self.place)}
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            env=environment,
            cwd="/",
            check=False,
            **here,
        )
        assert done.returncode == 0, (argv, done.stdout, done.stderr)
        return done.stdout.strip()

    def sql(self, name: str, statement: str) -> str:
        """One statement on one of the two."""
        where = ("-h", self.place / name, "-U", "postgres", "-XqAt")
        return self.run(BIN / "psql", *where, "-c", statement)

    def start(self, name: str) -> None:
        """Start one; it lives on. Where its socket is it is told here: pg_rewind brings the other's postgresql.conf."""
        log, own = self.place / name / "log", f"-k {self.place / name}"
        self.run(
            BIN / "pg_ctl", "-D", self.place / name / "data", "-w", "-t", "30", "-l", log, "-o", own, "start"
        )

    def alive(self, name: str) -> bool:
        """Whether its server runs."""
        with contextlib.suppress(FileNotFoundError):
            pid = int((self.place / name / "data" / "postmaster.pid").read_text().split()[0])
            return Path(f"/proc/{pid}/cwd").exists()
        return False

    def kill(self, name: str) -> None:
        """As a power failure would."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            pid = int((self.place / name / "data" / "postmaster.pid").read_text().split()[0])
            os.kill(pid, signal.SIGKILL)
        while self._workers(name):
            time.sleep(0.02)

    def _workers(self, name: str) -> list[str]:
        found = []
        for cwd in Path("/proc").glob("[0-9]*/cwd"):
            with contextlib.suppress(OSError):
                if cwd.readlink() == self.place / name / "data":
                    found.append(cwd.parent.name)
        return found

    def _serve(self) -> None:
        while not self._end.wait(0.1):
            for wish in (self.place / "wanted").iterdir():
                wish.unlink()
                with contextlib.suppress(AssertionError):
                    self.start(wish.name)


@contextlib.contextmanager
def pair() -> Iterator[Pair]:
    """Both, running, and gone afterwards."""
    made = Pair()
    try:
        made.begin()
        yield made
    finally:
        made.close()
