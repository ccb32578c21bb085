"""Parse errors in Prometheus' words.

The parser says `expected type matrix in call to function 'rate', got vector`. Whoever looks that up finds
nothing: Prometheus, and every page about it, says `expected type range vector in call to function "rate", got
instant vector`.
"""

import re

_TYPES = {"vector": "instant vector", "matrix": "range vector"}
_TYPE = "(scalar|string|vector|matrix)"
_EXPECTED = re.compile(
    rf"expected type {_TYPE} in (call to function|aggregation expression)(.*), got {_TYPE}"
)
_UNARY = re.compile(rf"unary expression only allowed on expressions of type scalar or vector, got: {_TYPE}")
_SUBQUERY = re.compile(rf"subquery is only allowed on vector, got {_TYPE} instead")
_QUOTED = re.compile(r"(set operator|in call to(?: function)?) '([^']*)'")


def worded(error: str) -> str:
    """The same error as Prometheus would put it; what is not known here stays as it is."""
    found = _EXPECTED.fullmatch(error)
    if found is not None:
        wanted, where, what, got = found.groups()
        if where == "aggregation expression" and wanted in ("scalar", "string"):
            where = "aggregation parameter"
        error = f"expected type {_type(wanted)} in {where}{what}, got {_type(got)}"
    elif (found := _UNARY.fullmatch(error)) is not None:
        words = "unary expression only allowed on expressions of type scalar or instant vector"
        error = f'{words}, got "{_type(found[1])}"'
    elif (found := _SUBQUERY.fullmatch(error)) is not None:
        error = f"subquery is only allowed on instant vector, got {_type(found[1])} instead"
    return _QUOTED.sub(r'\1 "\2"', error)


def _type(name: str) -> str:
    return _TYPES.get(name, name)
