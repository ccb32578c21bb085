"""The prober with real children and a clock that the test moves: retries, limits, recovery."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from watchbill.clock import ManualClock
from watchbill_agent import prober as module
from watchbill_agent.prober import NOT_ASKED, TIMEOUT, Answer, Failure, Prober, Space, parse_answer

# A child that answers what its path says: "hang" never, all else at once.
CHILD = """
import os
rest = b""
while data := os.read(0, 65536):
    *paths, rest = (rest + data).split(b"\\0")
    for path in paths:
        while b"hang" in path and not os.path.exists(path):
            import time; time.sleep(0.01)
        os.write(1, b"nonsense\\n" if b"nonsense" in path else b"ok 4096 9 8 7 6 5 0\\n")
"""
PACE = threading.Event()


@pytest.fixture
def prober(tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Prober]:
    program = tmp_path / "child.py"
    program.write_text(CHILD)
    monkeypatch.setattr(module, "_PROGRAM", program)
    prober = Prober(clock)
    yield prober
    prober.close()


def until(
    prober: Prober, paths: dict[int, bytes], wanted: Callable[[dict[int, Answer]], bool]
) -> dict[int, Answer]:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        known = prober.probe(paths, 0.05)
        if wanted(known):
            return known
        PACE.wait(0.01)
    pytest.fail(f"never came: {known}")


def test_every_mount_is_asked_by_one_child(prober):
    paths = {number: b"/%d" % number for number in range(50)}
    known = until(prober, paths, lambda known: len(known) == 50)
    assert set(known.values()) == {Space(4096, 9, 8, 7, 6, 5, read_only=False)}
    assert prober.children == 1


def test_a_hung_mount_keeps_its_child_and_the_others_get_another(prober, clock):
    paths = {1: b"/hang", 2: b"/fine"}
    prober.probe(paths, 0.05)
    clock.advance(1)
    known = until(prober, paths, lambda known: 2 in known)
    assert 1 not in known
    clock.advance(5)
    assert until(prober, paths, lambda known: 1 in known)[1] == TIMEOUT
    assert prober.children == 2


def test_a_late_answer_is_the_recovery(prober, clock, tmp_path):
    path = tmp_path / "hang"
    paths = {1: os.fsencode(path)}
    prober.probe(paths, 0.05)
    clock.advance(5)
    assert prober.probe(paths, 0.05)[1] == TIMEOUT
    path.touch()
    until(prober, paths, lambda known: isinstance(known.get(1), Space))


def test_after_a_minute_a_new_child_asks_again_and_the_mount_stays_hung_meanwhile(prober, clock, tmp_path):
    path = tmp_path / "hang"
    paths = {1: os.fsencode(path)}
    prober.probe(paths, 0.05)
    clock.advance(5)
    prober.probe(paths, 0.05)
    (first,) = [child.process.pid for child in prober._children]
    clock.advance(60)
    assert prober.probe(paths, 0.05)[1] == TIMEOUT
    until(prober, paths, lambda known: [child.process.pid for child in prober._children] not in ([], [first]))
    assert prober.probe(paths, 0.05)[1] == TIMEOUT
    assert prober.children == 1
    path.touch()
    until(prober, paths, lambda known: isinstance(known.get(1), Space))


def test_no_more_children_than_the_limit_whatever_hangs(prober, clock, monkeypatch):
    monkeypatch.setattr(module, "CHILDREN_MAX", 3)
    paths = {number: b"/hang/%d" % number for number in range(10)}
    for _ in range(8):
        known = prober.probe(paths, 0.01)
        clock.advance(5)
    known = prober.probe(paths, 0.01)
    assert prober.children == 3
    assert sorted(answer.why for answer in known.values() if isinstance(answer, Failure)) == sorted(
        [TIMEOUT.why] * 3 + [NOT_ASKED.why] * 7
    )


def test_a_child_that_dies_is_replaced(prober):
    until(prober, {1: b"/fine"}, lambda known: 1 in known)
    (child,) = prober._children
    child.process.kill()
    child.process.wait()
    prober._answers.clear()
    until(prober, {1: b"/fine"}, lambda known: 1 in known)
    assert prober._children[0] is not child


def test_a_child_that_talks_nonsense_is_not_believed(prober):
    for _ in range(5):
        assert prober.probe({1: b"/nonsense"}, 0.05) == {}


def test_no_mounts_need_no_children(prober):
    until(prober, {1: b"/fine"}, lambda known: 1 in known)
    until(prober, {}, lambda known: prober.children == 0)


def test_a_machine_that_cannot_start_children_has_no_answers_and_no_exception(prober, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert prober.probe({1: b"/fine"}, 0.05) == {}


@pytest.mark.parametrize("path", [b"/", os.fsencode(__file__), b"/no such path"])
def test_the_real_child_says_what_statvfs_says(path, clock):
    real = Prober(clock)
    known = until(real, {1: path}, lambda known: 1 in known)
    real.close()
    try:
        wanted = os.statvfs(path)
    except FileNotFoundError:
        assert known[1] == Failure("no such file or directory")
    else:
        answer = known[1]
        assert isinstance(answer, Space)
        assert (answer.block_bytes, answer.blocks, answer.files) == (
            wanted.f_frsize,
            wanted.f_blocks,
            wanted.f_files,
        )


@pytest.mark.parametrize(
    "line", [b"\n", b"ok\n", b"ok 1 2 3 4 5 6\n", b"ok 1 2 3 4 5 6 x\n", b"error\n", b"\xff\n"]
)
def test_half_an_answer_is_none(line):
    with pytest.raises(EOFError):
        parse_answer(line)
