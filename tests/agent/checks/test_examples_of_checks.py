"""What docs/checks.md shows is read without a mistake, and every key of a kind is shown to who asks."""

import re
from argparse import Namespace
from dataclasses import fields
from pathlib import Path

import pytest

from watchbill.config.spec import key_of
from watchbill.errors import UsageError
from watchbill_agent.checks import kinds
from watchbill_agent.checks.config import CheckTable, Trees, read_checks
from watchbill_agent.checks.showing import list_kinds

TEXT = (Path(__file__).parents[3] / "docs" / "checks.md").read_text()
EXAMPLES = [
    (found[1].partition("\n")[0], block)
    for found in re.finditer(r"^## (.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    for block in re.findall(r"^```toml\n(.*?)^```", found[1], re.MULTILINE | re.DOTALL)
    if "[[check]]" in block
]


def test_there_are_examples() -> None:
    assert {"http", "tcp", "tls", "icmp", "dns"} <= {kind for kind, _ in EXAMPLES}


@pytest.mark.parametrize(("kind", "block"), EXAMPLES, ids=[kind for kind, _ in EXAMPLES])
def test_an_example_is_read(kind: str, block: str, tmp_path: Path) -> None:
    (tmp_path / "checks.d").mkdir()
    (tmp_path / "checks.d" / "a.toml").write_text(block)
    assert read_checks(Trees(tmp_path))


@pytest.mark.parametrize("kind", kinds.names())
def test_all_keys_of_a_kind_are_shown(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert list_kinds(Namespace(kind=kind, json=False)) == 0
    shown = capsys.readouterr().out
    found = kinds.find(kind)
    assert found is not None
    for field in (*fields(found.options_type), *fields(CheckTable)):
        assert re.search(rf"^# (\[+)?{key_of(field)}\b", shown, re.MULTILINE), field.name


def test_a_kind_that_is_none_is_told_with_those_that_are() -> None:
    with pytest.raises(UsageError, match="there are: dns, exec,"):
        list_kinds(Namespace(kind="htp", json=False))
