"""Text as the store keeps it: canonical JSON, and strings from outside made harmless and short."""

import json
from collections.abc import Mapping
from typing import Final

SHORT_MAX: Final = 200


def canonical_json(value: Mapping[str, object]) -> str:
    """Sorted keys, no spaces, ASCII: the same value is always the same bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def harmless(text: str, length_max: int = SHORT_MAX) -> str:
    """What a stranger sent, for logs and rows: printable, on one line, at most `length_max` characters."""
    kept = "".join(c if c.isprintable() else "?" for c in text[:length_max])
    return kept if len(text) <= length_max else kept[: length_max - 1] + "…"
