"""Files that do not answer hold up the checks that need them, and no other."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from watchbill_agent.checks.apart import THREADS_MAX, Reader
from watchbill_agent.checks.check import Failed, Verdict

from ..samplers import conftest as samplers
from ..samplers.conftest import FuseMount

fuse_mount, mounts_of_nobody_else = samplers.fuse_mount, samplers.mounts_of_nobody_else

LONG_S = 60.0


class Hanging:
    """Readings that end when they are released."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.begun = 0

    def __call__(self) -> str:
        self.begun += 1
        self.release.wait(LONG_S)
        return "late"


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    made = Hanging()
    yield made
    made.release.set()


async def read(reader: Reader, name: str, work: Callable[[], str], within_s: float = LONG_S) -> str:
    until_s = asyncio.get_running_loop().time() + within_s
    return await reader.read((Path("/", name),), work, "credential", until_s)


async def failed(reader: Reader, name: str, within_s: float = LONG_S, work: Callable[[], str] = str) -> str:
    """The detail of why it could not be read."""
    with pytest.raises(Failed) as raised:
        await read(reader, name, work, within_s)
    assert (raised.value.verdict, raised.value.reason) == (Verdict.UNKNOWN, "credential")
    return raised.value.detail


async def all_ended(reader: Reader) -> None:
    async with asyncio.timeout(LONG_S):
        while reader.hung:  # noqa: ASYNC110 - Threads set no events.
            await asyncio.sleep(0.001)


async def test_a_file_whose_reading_has_not_ended_is_not_read_again_and_others_are(hanging: Hanging) -> None:
    reader = Reader()
    assert "/a: got no end of reading it within" in await failed(reader, "a", 0.15, hanging)
    assert await failed(reader, "a") == "/a: an earlier reading of /a has not ended"
    assert await read(reader, "b", lambda: "well") == "well"
    assert (hanging.begun, reader.hung, reader.unanswered) == (1, 1, 2)
    hanging.release.set()
    await all_ended(reader)
    assert await read(reader, "a", lambda: "anew") == "anew"


async def test_one_file_is_read_by_one_at_a_time_and_what_it_raises_is_raised(hanging: Hanging) -> None:
    reader = Reader()

    def broken() -> str:
        raise ValueError("it is broken")

    first = asyncio.create_task(read(reader, "a", hanging))
    others = [asyncio.create_task(read(reader, "a", work)) for work in (broken, lambda: "second")]
    await asyncio.sleep(0)
    others[0].cancel()
    third = asyncio.create_task(read(reader, "a", broken))
    hanging.release.set()
    assert (await first, await others[1]) == ("late", "second")
    with pytest.raises(ValueError, match="it is broken"):
        await third
    assert (reader.hung, reader.unanswered) == (0, 0)


async def test_whose_look_was_called_off_leaves_the_file_to_the_next(hanging: Hanging) -> None:
    reader = Reader()
    left = asyncio.create_task(read(reader, "a", hanging))
    await asyncio.sleep(0)
    left.cancel()
    after = asyncio.create_task(read(reader, "a", lambda: "well"))
    await asyncio.sleep(0)
    hanging.release.set()
    assert await after == "well"


async def test_a_look_that_has_no_time_left_does_not_close_the_file_to_others(hanging: Hanging) -> None:
    reader = Reader()
    await failed(reader, "a", 0.01, hanging)
    await failed(reader, "a", -1.0)
    after = asyncio.create_task(read(reader, "a", lambda: "well"))
    await asyncio.sleep(0)
    hanging.release.set()
    assert (await after, reader.hung) == ("well", 0)


async def test_when_all_threads_hang_no_file_is_read_until_one_has_ended(hanging: Hanging) -> None:
    reader = Reader()
    await asyncio.gather(*(failed(reader, f"hung{at}", 0.2, hanging) for at in range(THREADS_MAX)))
    assert await failed(reader, "b") == f"/b: not read while {THREADS_MAX} readings of files do not end"
    assert hanging.begun == THREADS_MAX
    hanging.release.set()
    await all_ended(reader)
    assert await read(reader, "b", lambda: "well") == "well"


SCRIPT = """
import asyncio, sys
from pathlib import Path
from watchbill.config.convert import Table
from watchbill_agent.checks import kinds
from watchbill_agent.checks.check import About
from watchbill_agent.checks.config import Spec, make
from watchbill_agent.checks.looking import look
from watchbill_agent.checks.apart import READER

far = sys.argv[1]

async def looked(kind, timeout_s, **keys):
    made = make(kinds.find(kind), Table(keys), About("x", 60, timeout_s))
    spec = Spec("x", kind, 60, timeout_s, 0, 1, "", True, (), (), made, keys)
    outcome = await look(spec, None, None)
    return outcome.verdict.word, outcome.reason, outcome.detail.partition(": ")[0].removeprefix(far)

async def main():
    async def answer(reader, writer):
        await reader.readuntil(b"\\r\\n\\r\\n")
        writer.write(b"HTTP/1.1 204 Well\\r\\n\\r\\n")
        await writer.drain()
        writer.close()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    hung = asyncio.create_task(looked("http", 1, url=url, bearer_token_file=far + "/token"))
    print((await looked("http", 30, url=url))[0], hung.done())
    print(*await hung)
    print(*await looked("http", 30, url=url, method="POST", body_file=far + "/body"))
    print(*await looked("scrape", 30, url=url, username="a", password_file=far + "/password"))
    print(*await looked("tls", 30, address=f"127.0.0.1:{port}", ca_file=far + "/ca"))
    print(*await looked("exec", 30, argv=["/bin/true"], secrets={"A": far + "/secret"}))
    print(*await looked("postgres", 30, password_file=far + "/password"))
    print(*await looked("redis", 30, port=port, tls=True, ca_file=far + "/ca"))
    print(*await looked("process", 30, pidfile=far + "/pid"))
    print((await looked("http", 30, url=url))[0], READER.hung, READER.unanswered)

asyncio.run(main())
"""


def test_files_on_a_mount_that_never_answers_hold_up_their_own_checks_only(fuse_mount: FuseMount) -> None:
    """In a process of its own, which ends while the reading still hangs."""
    argv = (sys.executable, "-c", SCRIPT, str(fuse_mount.point))
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        said, _ = process.communicate(timeout=45)
    finally:
        fuse_mount.unmount()
        process.kill()
        process.wait()
    assert said.splitlines() == [
        "ok False",
        "unknown credential /token",
        "unknown body-file /body",
        "unknown credential /password",
        "unknown tls-files /ca",
        "unknown credential /secret",
        "unknown credential /password",
        "unknown tls-files /ca",
        "unknown stuck /pid",
        "ok 1 8",
    ]
