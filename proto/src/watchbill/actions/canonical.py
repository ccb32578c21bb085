"""Canonical JSON: one spelling of one meaning, so that bytes can be signed and compared.

UTF-8, keys sorted, no white space, whole numbers only, no key twice. What is read has to be exactly what would be
written: a second spelling of a signed document is no document.
"""

import json
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from watchbill.errors import Unreadable

DOCUMENT_BYTES_MAX: Final = 256 * 1024
"""Of one document: it fits a message of either link, with what is around it."""
NESTING_MAX: Final = 16
NUMBER_MAX: Final = 2**53
"""Numbers lie within this and its negative: every reader of JSON can hold them."""


def canonical(document: Mapping[str, Any]) -> bytes:
    """The one spelling of a document of str, int, bool, None, lists and string-keyed mappings.

    Raises Unreadable for anything else: fractions, numbers past NUMBER_MAX, text that is no Unicode.
    """
    fault = _fault(document, NESTING_MAX)
    if fault:
        raise Unreadable(fault)
    try:
        text = json.dumps(
            document, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
        )
        return text.encode("utf-8")
    except (ValueError, TypeError) as exc:
        raise Unreadable(f"no canonical JSON: {exc}") from exc


def read_canonical(content: bytes, bytes_max: int = DOCUMENT_BYTES_MAX) -> dict[str, Any]:
    """A document from the one spelling it may have. Raises Unreadable."""
    if len(content) > bytes_max:
        raise Unreadable(f"a document of {len(content)} bytes, wanted at most {bytes_max}")
    try:
        found = json.loads(content, parse_float=_no_fraction, parse_constant=_no_fraction)
    except (ValueError, RecursionError) as exc:
        raise Unreadable(f"no JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise Unreadable("no JSON object")
    # A key that came twice, another order, a space: none of them is written so.
    if canonical(found) != content:
        raise Unreadable("JSON that is not in its canonical form")
    return found


def _no_fraction(text: str) -> NoReturn:
    raise ValueError(f"the number {text[:40]}, wanted whole numbers")


def _fault(value: object, levels: int) -> str:
    """What of a value has no canonical form, or ""."""
    if value is None or isinstance(value, (str, bool)):
        return ""
    if isinstance(value, int):
        return "" if -NUMBER_MAX <= value <= NUMBER_MAX else f"a number beyond {NUMBER_MAX}"
    if levels == 0:
        return f"nested deeper than {NESTING_MAX}"
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            return "a key that is no text"
        inner: Any = value.values()
    elif isinstance(value, (list, tuple)):
        inner = value
    else:
        return f"a {type(value).__name__}"
    return next((fault for one in inner if (fault := _fault(one, levels - 1))), "")
