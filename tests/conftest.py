"""What every test may use: real tools by marker, and a place for what is temporary, of which nothing is left behind."""

import contextlib
import ctypes
import fcntl
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from watchbill.grpc_environment import set_grpc_environment

set_grpc_environment()  # Before any test imports grpc: afterwards it would take TLS 1.2.

IN_CI = os.environ.get("CI") == "true"
TESTS = Path(__file__).parent
LONGEST_FIRST = (
    *("chaos", "acceptance", "integration", "web", "cli", "links", "model"),
    *("enrolment", "rules", "history", "head", "dispatch", "store"),
)
"""Folders whose files take longest. Workers begin with them, so that none is what all others have to wait for."""
MEMORY = Path("/dev/shm")
MEMORY_BYTES_MIN = 6 << 30
"""With less to spare everything is on disk."""
PREFIX = "wb-tests-"
RESERVE_BYTES = 64 * 1024
BIRTH_S = 60.0
"""A place younger than this may not have its lock yet."""


def _places() -> Path:
    """Where all that is temporary is: in memory where there is plenty of it, because tests kill processes and never the
    machine, and otherwise wait for disks most of the time. WATCHBILL_TESTS_PLACE=/tmp puts it elsewhere.
    """
    if chosen := os.environ.get("WATCHBILL_TESTS_PLACE"):
        return Path(chosen)
    try:
        facts = os.statvfs(MEMORY)
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    except OSError:
        return Path("/tmp")
    spare = min(facts.f_bavail * facts.f_frsize, int(lines["MemAvailable"].split()[0]) * 1024)
    fit = os.access(MEMORY, os.W_OK | os.X_OK) and not facts.f_flag & (os.ST_NOEXEC | os.ST_RDONLY)
    return MEMORY if fit and spare >= MEMORY_BYTES_MIN else Path("/tmp")


PLACES = _places()
os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(PLACES))  # Of pytest's own directories.


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Under workers (see scripts/test) the longest files come first."""
    if hasattr(config, "workerinput"):
        order = {name: at for at, name in enumerate(LONGEST_FIRST)}
        items.sort(key=lambda item: order.get(item.path.relative_to(TESTS).parts[0], len(order)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose real tool is missing, saying which; where CI=true, fail instead."""
    for marker in item.iter_markers("real"):
        for tool in marker.args:
            if shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
                reason = f"needs {tool}, which is not on this machine (scripts/test installs it as root)"
                if IN_CI:
                    pytest.fail(reason, pytrace=False)
                pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """A worker sends its reports as UTF-8, and a lone surrogate in what a test logged would end it."""
    return _sendable((yield))


def _sendable(data: Any) -> Any:
    if isinstance(data, str):
        return data.encode("utf-8", "backslashreplace").decode()
    if isinstance(data, dict):
        return {_sendable(key): _sendable(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return type(data)(_sendable(each) for each in data)
    return data


@pytest.fixture(scope="session", autouse=True)
def temporary_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A directory of this process for all that is temporary, of tests and of the programs that they start.

    Its name is short: the address of a Unix socket has 107 bytes at most. Its lock ends with the process: what a run
    that was killed has left is removed by the next one.
    """
    tmp_path_factory.getbasetemp()  # pytest's own directories stay where people look for them.
    _remove_abandoned()
    place = Path(tempfile.mkdtemp(prefix=PREFIX, dir=PLACES))
    lock = os.open(place, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    place.chmod(0o711)  # PostgreSQL, which is another user, has its data in there.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(place))
        patch.setattr(tempfile, "tempdir", str(place))
        yield
    shutil.rmtree(place)
    os.close(lock)


@pytest.fixture(scope="session", autouse=True)
def small_reserve() -> Iterator[None]:
    """Stores that are opened in the tests' own process set little aside for a full disk: 8 MiB are three quarters of
    what opening one costs. Daemons are as they are, and so is whoever asks what the reserve does.
    """
    from watchbill_collector.store import reserve

    with pytest.MonkeyPatch.context() as patch:
        small = functools.partial(reserve.set_aside, size=RESERVE_BYTES)
        patch.setattr("watchbill_collector.store.set_aside", small)
        yield


def _remove_abandoned() -> None:
    """Places of this user whose processes are gone."""
    for place in PLACES.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), _opened(place) as lock:
            facts = os.fstat(lock)
            if facts.st_uid == os.geteuid() and time.time() - facts.st_mtime > BIRTH_S:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for line in Path("/proc/self/mounts").read_text().splitlines():
                    if (mount := line.split()[1]).startswith(f"{place}/"):
                        subprocess.run(["umount", "-l", mount], check=False)
                shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def _opened(place: Path) -> Iterator[int]:
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.fixture(scope="module", autouse=True)
def _orphans_go_to_init() -> Generator[None, None, None]:
    """A check that runs commands makes its process their subreaper. In a process of tests that is over with its file:
    others count on orphans being buried."""
    yield
    strays = sys.modules.get("watchbill_agent.checks.strays")
    if strays is not None and strays._adopting:
        ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
        strays._adopting = False
