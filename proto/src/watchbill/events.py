"""Critical events by name: what a host says in its crit stream, which is never dropped.

The kinds here are of an agent's own life. Others bring their own, in the same form: lower case, words joined by dots.
"""

import re
from typing import Final

AGENT_STARTED: Final = "agent.started"
"""`version`, `run`, `boot`, and `after`: how the run before ended, as far as this one can tell."""
AGENT_STOPPED: Final = "agent.stopped"
"""`run` and `reason`: the word of its goodbye. A run that was killed has none."""
SPOOL_FORKED: Final = "spool.forked"
"""`from` and `to` name the spools, `held` says by stream how far the collector was: it had records that the spool never
had, so the machine was rolled back to a snapshot, or another one has its identity."""

LIFE: Final = frozenset({AGENT_STARTED, AGENT_STOPPED, SPOOL_FORKED})
"""Kinds of which the collector keeps the newest alone: an agent that starts for ever must not fill its store."""

_KIND = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
KIND_WANTED: Final = "1 to 64 of a-z, 0-9, dot, dash and underscore"


def is_kind(text: str) -> bool:
    """Whether a kind may be called so: it goes into databases, labels and logs."""
    return _KIND.fullmatch(text) is not None
