"""What is wrong with a backup comes with what to do: every reason that docs/backups.md lists as a warning or as bad."""

import re
from pathlib import Path

import pytest

from watchbill_collector.backups import FacetName
from watchbill_collector.backups.texts import ADVICE

DOCS = Path(__file__).parents[2] / "docs" / "backups.md"


@pytest.mark.parametrize("facet", FacetName)
def test_every_reason_that_is_a_warning_or_bad_has_advice(facet: FacetName) -> None:
    row = next(line for line in DOCS.read_text().splitlines() if line.startswith(f"| `{facet}` |"))
    _, _, _, warn, bad, *_ = row.split("|")
    reasons = re.findall(r"`([a-z-]+)`", warn + bad)
    assert reasons
    assert [reason for reason in reasons if not ADVICE.get(reason)] == []
