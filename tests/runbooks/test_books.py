"""A directory of runbooks: one that is wrong is listed with its mistakes and spoils no other."""

import os
from pathlib import Path

import pytest

from watchbill.config import Homes
from watchbill.errors import ConfigError
from watchbill_collector.configured import all_problems
from watchbill_collector.runbookfiles import check_runbooks, read_directory
from watchbill_collector.runbooks.books import BOOKS_MAX, Source, judge_books, read_books, usable
from watchbill_collector.runbooks.lint import Around

GOOD = b"runbook: good\nsteps: [{notify: ops}]\n"


def test_each_runbook_is_known_by_its_name_and_a_wrong_one_by_its_file() -> None:
    books = read_books([Source("b.yaml", GOOD), Source("d/a.yaml", b"runbook: a\nstep: []\n")])
    assert list(books) == ["a", "good"]
    assert list(usable(books)) == ["good"]
    assert [str(one) for one in books["a"].mistakes] == [
        "d/a.yaml:1: steps: got no steps, wanted a list of steps",
        'd/a.yaml:2: got the unknown key "step", wanted "steps"?',
    ]


def test_a_name_that_is_there_twice_is_nobodys() -> None:
    books = read_books([Source("a.yaml", GOOD), Source("b.yaml", GOOD), Source("c.yaml", GOOD)])
    assert usable(books) == {}
    told = [str(one) for book in books.values() for one in book.mistakes]
    assert "a.yaml:1: runbook: got good, which b.yaml says, too, wanted each name once" in told
    assert {line.split(":")[0] for line in told} == {"a.yaml", "b.yaml", "c.yaml"}


def test_runbooks_are_judged_with_one_another_around_them() -> None:
    caller = b"runbook: caller\nsteps: [{call: good}, {call: lost}]\n"
    books = read_books([Source("a.yaml", GOOD), Source("b.yaml", caller), Source("c.yaml", b"[]")])
    judged = judge_books(books, Around(channels=["oncall"]))
    assert {name: [one.message for one in found] for name, found in judged.items()} == {
        "good": ["there is no channel ops"],
        "caller": ["there is no runbook lost"],
        "c": ["got a list, wanted a mapping"],
    }


def test_the_directory_is_read_in_order_and_what_cannot_be_is_told(tmp_path: Path) -> None:
    assert read_directory(tmp_path / "none") == ([], [])
    (tmp_path / "b.yaml").write_bytes(GOOD)
    (tmp_path / "a.yml").write_bytes(GOOD)
    (tmp_path / ".hidden.yaml").write_bytes(GOOD)
    (tmp_path / "note.txt").write_bytes(GOOD)
    os.mkfifo(tmp_path / "pipe.yaml")
    sources, problems = read_directory(tmp_path)
    assert [Path(one.file).name for one in sources] == ["a.yml", "b.yaml"]
    assert [problem.file for problem in problems] == [str(tmp_path / "pipe.yaml")]


def test_a_directory_has_a_bound(tmp_path: Path) -> None:
    for number in range(BOOKS_MAX + 1):
        (tmp_path / f"{number:03}.yaml").touch()
    sources, problems = read_directory(tmp_path)
    assert len(sources) == BOOKS_MAX
    assert problems[0].wanted == f"at most {BOOKS_MAX}"


def test_check_config_tells_what_is_wrong_with_runbooks(tmp_path: Path) -> None:
    homes = Homes.resolve("collector", tmp_path)
    directory = homes.etc / "runbooks.d"
    directory.mkdir(parents=True)
    (directory / "good.yaml").write_bytes(GOOD)
    check_runbooks(homes)
    bad = directory / "bad.yaml"
    bad.write_text("runbook: bad\nsteps:\n  - {do: x.y, on: web1, wiht: {a: b}}\n")
    with pytest.raises(ConfigError) as caught:
        check_runbooks(homes)
    (problem,) = caught.value.problems
    assert str(problem).startswith(f"{bad}:3: step-1: ")
    assert problem in all_problems(homes)
