"""What a log check may say, and how it is told what it may not."""

from pathlib import Path

import pytest

from watchbill.errors import ConfigError
from watchbill_agent.checks.config import Trees, read_checks

GOOD = '[[check]]\nname = "log"\nkind = "log"\n'


def said(tmp_path: Path, text: str) -> list[str]:
    (tmp_path / "checks.d").mkdir(exist_ok=True)
    (tmp_path / "checks.d/log.toml").write_text(GOOD + text)
    try:
        read_checks(Trees(tmp_path))
    except ConfigError as exc:
        return [f"{problem.line}: {problem.key}: {problem.got}: {problem.wanted}" for problem in exc.problems]
    return []


@pytest.mark.parametrize(
    "text",
    [
        'files = ["/var/log/*.log"]\nformat = "combined"\n',
        'journal = ["a.service"]\npatterns = [{ name = "oom", regex = "Out of memory", fail_if = 1 }]\n',
        'files = ["/a"]\nformat = "json"\nfields = { duration = "time" }\nduration_unit = "ms"\n',
        'files = ["/a"]\nformat = "json"\npaths = [{ name = "pay", regex = "^/pay" }]\nbounds = [0.1, 1.0]\n',
    ],
)
def test_what_is_right_is_taken(tmp_path, text):
    assert said(tmp_path, text) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            'files = ["/a"]\njournal = ["b"]\nformat = "common"\n',
            "files, or units of the journal, and not both",
        ),
        ('format = "common"\n', "files, or units of the journal, and not both"),
        ('files = ["/a"]\n', "format, or patterns"),
        ('files = ["a.log"]\nformat = "common"\n', '4: check[0].files[0]: "a.log": an absolute path'),
        ('files = ["/a/**/b"]\nformat = "common"\n', "an absolute path, with * and ?"),
        ('journal = ["--root=/"]\nformat = "common"\n', "the name of a unit"),
        ('files = ["/a"]\nformat = "comon"\n', '5: check[0].format: "comon": one of common, combined'),
        (
            'files = ["/a"]\nformat = "$status"\npaths = [{ name = "a", regex = "b" }]\n',
            "with the request, or no paths",
        ),
        ('files = ["/a"]\nformat = "json"\nfields = { time = "t" }\n', "one of: status, method, path"),
        ('files = ["/a"]\nformat = "json"\nduration_unit = "h"\n', "duration_unit"),
        ('files = ["/a"]\nformat = "json"\nbounds = [2.0, 1.0]\n', "each greater than the one before"),
        ('files = ["/a"]\npatterns = [{ name = "a", regex = "(" }]\n', "a regular expression: "),
        (
            'files = ["/a"]\npatterns = [{ name = "a", regex = "b" }, { name = "a", regex = "c" }]\n',
            "a name of its own",
        ),
        ('files = ["/a"]\npatterns = [{ name = "a", regex = "b", severity = "bad" }]\n', "severity"),
        ('files = ["/a"]\nformat = "json"\nlook_bytes = "1KiB"\n', "at least 1MiB"),
    ],
)
def test_what_is_wrong_is_told_with_its_line_and_what_is_wanted(tmp_path, text, problem):
    told = said(tmp_path, text)
    assert any(problem in one for one in told), told
