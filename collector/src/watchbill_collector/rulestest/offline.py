"""A unit-test file and the rule files beside it, from the disk or from a request, judged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from watchbill.errors import Problem
from watchbill_collector.rules import Source, read
from watchbill_collector.rulestest.bounds import Limits
from watchbill_collector.rulestest.files import RuleFiles, read_tests
from watchbill_collector.rulestest.judge import judge
from watchbill_collector.rulestest.model import Failure


@dataclass(frozen=True, slots=True)
class Judged:
    """What came of one unit-test file. With problems nothing was judged."""

    file: str
    problems: tuple[Problem, ...]
    failures: tuple[Failure, ...]
    warnings: tuple[str, ...]
    tests: int
    expectations: int

    @property
    def passed(self) -> bool:
        """Whether everything was as expected."""
        return not self.problems and not self.failures


def judge_source(source: Source, rule_files: RuleFiles, limits: Limits | None = None) -> Judged:
    """Judge one file; raises what the limits' `check` raises."""
    tests, problems = read_tests(source, rule_files)
    if tests is None:
        return Judged(source.file, tuple(problems), (), (), 0, 0)
    failures, problems = judge(tests, limits)
    expectations = sum(len(group.alerts) + len(group.exprs) for group in tests.groups)
    return Judged(
        source.file, tuple(problems), tuple(failures), tests.warnings, len(tests.groups), expectations
    )


def judge_file(path: Path, limits: Limits | None = None) -> Judged:
    """Judge one file of the disk; rule files are looked for beside it."""
    sources, problems = read([path])
    if problems:
        return Judged(str(path), tuple(problems), (), (), 0, 0)
    return judge_source(sources[0], beside(path.parent), limits)


def beside(folder: Path) -> RuleFiles:
    """Rule files by a pattern that is relative to a folder."""

    def find(pattern: str) -> tuple[list[Source], list[Problem]]:
        root = Path("/") if pattern.startswith("/") else folder
        try:
            return read(sorted(root.glob(pattern.strip("/"))))
        except ValueError as error:  # A pattern that means nothing, such as "**x".
            return [], [Problem(pattern, 0, "", str(error), "a file name or a pattern")]

    return find


def given(files: Mapping[str, Sequence[tuple[str, str]]]) -> RuleFiles:
    """Rule files that came with the request: by pattern, names and texts."""

    def find(pattern: str) -> tuple[list[Source], list[Problem]]:
        return [Source(name, text.encode()) for name, text in files.get(pattern, ())], []

    return find
