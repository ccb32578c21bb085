"""Expressions of runbooks: names, dots, comparisons, and/or/not, numbers with units, a few functions.

Data that is missing is UNKNOWN. It spreads: a comparison with it is UNKNOWN, `unknown and false` is false, `unknown or
true` is true, and everything else that has it stays UNKNOWN. UNKNOWN never satisfies a check.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

EXPRESSION_CHARACTERS_MAX: Final = 2_000
NODES_MAX: Final = 500
DEPTH_MAX: Final = 32


class Unknown(Enum):
    """A value nobody has: its host is silent, its step has not run, its output does not say."""

    UNKNOWN = "unknown"


UNKNOWN: Final = Unknown.UNKNOWN

Known = str | int | float | bool | None | list["Known"] | dict[str, "Known"]
Value = Known | Unknown
"""Numbers of times are seconds, of sizes bytes."""


class Facts(Protocol):
    """What the functions ask. Each answers UNKNOWN for what is not known at the moment of the facts."""

    def metric(self, host: str, name: str) -> Value:
        """The newest fresh value of a host's series."""

    def alert(self, name: str, host: str) -> Value:
        """Whether an alert fires for a host; UNKNOWN when its host is silent or its rule could not be judged."""

    def backup(self, job: str) -> Value:
        """State, age and newest manifest of a backup job, as a mapping."""

    def host(self, name: str) -> Value:
        """State, labels and health of a host, as a mapping."""


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression that was read; `tree` is for the evaluator alone. `names` are the first parts of the names in it,
    `calls` the functions."""

    text: str
    tree: object
    names: frozenset[str] = frozenset()
    calls: frozenset[str] = frozenset()
    line: int = 0


Scope = Mapping[str, Value]
"""Values by their first name: parameters, and steps by id as mappings with `out`, `ok`, `rc`, `took`."""
