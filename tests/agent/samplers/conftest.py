"""Frozen kernel trees, and a FUSE mount whose server answers only when the test says so."""

import ctypes
import fcntl
import os
import select
import shutil
import struct
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from watchbill.clock import ManualClock
from watchbill_agent.samplers import HostPaths, Reading

TREE = Path(__file__).parent / "fixtures" / "host"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the frozen host that a test may change."""
    copy = tmp_path / "host"
    shutil.copytree(TREE, copy)
    return copy


@pytest.fixture
def host(tree: Path, clock: ManualClock) -> Iterator[HostPaths]:
    paths = host_paths(tree, clock)
    yield paths
    paths.close()


def host_paths(tree: Path, clock: ManualClock) -> HostPaths:
    root = tree / "root"
    for point in ("proc", "srv/data disk", "mnt/after\\error"):
        (root / point).mkdir(parents=True, exist_ok=True)
    return HostPaths(tree / "proc", tree / "sys", root, udev=tree / "udev", clock=clock)


def by_series(reading: Reading) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """The values of a reading by name and labels; a series that stands there twice is an error."""
    found = {}
    for series, value in zip(reading.layout.series, reading.values, strict=True):
        key = (series.name, frozenset(series.labels))
        assert key not in found, f"{key} stands there twice"
        found[key] = float(value)
    return found


@pytest.fixture
def values_of():
    """`values_of(reading, name, **labels)`: the value of one series, or None where there is none."""

    def value(reading: Reading, name: str, **labels: str) -> float | None:
        return by_series(reading).get((name, frozenset(labels.items())))

    return value


# The FUSE protocol, see fuse.h of the kernel: a header of 40 bytes in, one of 16 out.
_IN_HEADER = struct.Struct("<IIQQIIIHH")
_OUT_HEADER = struct.Struct("<IiQ")
_STATFS, _INIT = 17, 26
_INIT_OUT = struct.Struct("<IIIIHHII9I")
_STATFS_OUT = struct.Struct("<QQQQQIIII24x")
_MNT_FORCE, _MNT_DETACH = 1, 2


class FuseMount:
    """A mount that never answers until `answer()`, and goes silent again with `hang()`.

    While it hangs nothing reads the kernel's questions, as with a daemon that is stopped.
    """

    def __init__(self, point: Path) -> None:
        self.point = point
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        options = f"fd={self._device},rootmode=40000,user_id=0,group_id=0,allow_other"
        if self._libc.mount(b"never", os.fsencode(point), b"fuse.never", 0, options.encode()) != 0:
            code = ctypes.get_errno()
            os.close(self._device)
            raise OSError(code, os.strerror(code))
        self._stop = threading.Event()
        self._server: threading.Thread | None = None

    def answer(self) -> None:
        self._stop.clear()
        self._server = threading.Thread(target=self._serve, name="fuse server")
        self._server.start()

    def hang(self) -> None:
        self._stop.set()
        if self._server is not None:
            self._server.join()
            self._server = None

    def unmount(self) -> None:
        self.hang()
        if self._device < 0:
            return
        self._libc.umount2(os.fsencode(self.point), _MNT_FORCE | _MNT_DETACH)
        os.close(self._device)  # The connection ends, and whoever waits is told so.
        self._device = -1

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._device, select.POLLIN)
        while not self._stop.is_set():
            if not poll.poll(10):
                continue
            try:
                request = os.read(self._device, 1 << 17)
            except (BlockingIOError, FileNotFoundError):
                continue
            _, opcode, unique, *_ = _IN_HEADER.unpack_from(request)
            if opcode == _INIT:
                body, error = _INIT_OUT.pack(7, 31, 65536, 0, 16, 12, 4096, 1, *(0,) * 9), 0
            elif opcode == _STATFS:
                body, error = _STATFS_OUT.pack(1000, 600, 500, 77, 33, 4096, 255, 4096, 0), 0
            else:
                body, error = b"", -38  # ENOSYS
            os.write(self._device, _OUT_HEADER.pack(16 + len(body), error, unique) + body)


@pytest.fixture
def mounts_of_nobody_else() -> Iterator[None]:
    """Tests in other processes that mount what everybody sees, or compare all that is mounted, wait meanwhile."""
    lock = os.open(Path(__file__).parent, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    yield
    os.close(lock)


@pytest.fixture
def fuse_mount(mounts_of_nobody_else: None) -> Iterator[FuseMount]:
    if not Path("/dev/fuse").exists():
        pytest.skip("needs /dev/fuse, which this machine does not have")
    # Not where tests have what is temporary: that may be below /dev, and mounts there are left out.
    point = Path(tempfile.mkdtemp(prefix="never answers", dir="/tmp"))
    try:
        mount = FuseMount(point)
    except PermissionError as exc:
        point.rmdir()
        pytest.skip(f"needs to mount a FUSE filesystem, which needs root: {exc}")
    yield mount
    mount.unmount()
    point.rmdir()
