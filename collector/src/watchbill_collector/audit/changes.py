"""What a reload changed, as text for the audit: pure."""

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

DIFF_BYTES_MAX: Final = 24 * 1024
"""Of one file; what is longer is cut, and says so."""
FILES_MAX: Final = 200
"""Files of one reload told one by one; more are counted in a last entry."""
LINES_COMPARED_MAX: Final = 20_000
"""Larger files are told by their hashes: comparing takes time that grows with the square."""


@dataclass(frozen=True, slots=True)
class Change:
    """One file that changed: `what` is added, removed or changed; `detail` goes into the audit."""

    file: str
    what: str
    detail: Mapping[str, object]


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> Sequence[Change]:
    """What differs between two sets of texts by name, sorted by name."""
    names = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    found = [_change(name, before.get(name), after.get(name)) for name in names[:FILES_MAX]]
    if len(names) > FILES_MAX:
        found.append(Change("(others)", "changed", {"files": len(names) - FILES_MAX}))
    return found


def _change(name: str, before: str | None, after: str | None) -> Change:
    what = "added" if before is None else "removed" if after is None else "changed"
    old, new = (before or "").splitlines(keepends=True), (after or "").splitlines(keepends=True)
    detail: dict[str, object] = {"sha256": _sha256(after), "sha256_before": _sha256(before)}
    if len(old) + len(new) > LINES_COMPARED_MAX:
        return Change(name, what, detail)
    lines = difflib.unified_diff(old, new, "before", "after", n=2)
    diff = "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)
    cut = diff.encode("utf-8", "replace")[:DIFF_BYTES_MAX].decode("utf-8", "ignore")
    detail["diff"] = cut
    if len(cut) < len(diff):
        detail["diff_left_out_characters"] = len(diff) - len(cut)
    return Change(name, what, detail)


def _sha256(text: str | None) -> str:
    return "" if text is None else hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
