"""What docs/checks.md shows is read without a mistake."""

import re
from pathlib import Path

import pytest

from watchbill_agent.checks.config import Trees, read_checks

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
