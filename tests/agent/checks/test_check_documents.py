"""What the document about checks shows can be pasted as it is."""

import re
from pathlib import Path

import pytest

from watchbill_agent.checks.config import Trees, read_checks

DOCUMENT = Path(__file__).parents[3] / "docs" / "checks.md"
EXAMPLES = re.findall(r"^```toml\n(.*?)^```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: re.findall(r'name = "([^"]+)"', text)[0])
def test_an_example_is_a_check(tmp_path: Path, example: str) -> None:
    (tmp_path / "checks.toml").write_text(example)
    assert read_checks(Trees(tmp_path))
