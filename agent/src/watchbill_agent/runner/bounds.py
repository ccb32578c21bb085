"""How much the runner holds, how long it waits, and what happens beyond: it is refused or dropped, and counted."""

from typing import Final

FRAME_BYTES_MAX: Final = 512 * 1024
"""One request or answer on the socket: an order in base64 fits. A longer one ends the connection."""
FRAME_S: Final = 10.0
"""From the first byte of a frame to its last, either way. A slower peer is cut off."""
IDLE_CONNECTION_S: Final = 120.0
"""A connection that asks nothing for so long is closed."""
CONNECTIONS_MAX: Final = 8
"""Of the agent's user at a time, and as many of root's; further ones are closed at once."""
WAIT_S_MAX: Final = 60.0
"""How long an answer to `events` may be waited for."""
IDLE_S: Final = 300.0
"""Under socket activation a runner with nothing running, nothing to tell and nobody connected ends after this."""

ROOMS: Final = 32
"""Commands that run, or whose result is not fetched yet. Beyond it: refused as `busy`."""
RUNNING_MAX: Final = 16
"""Commands at a time, all actions together. Beyond it: refused as `busy`."""
SLOTS: Final = 4_096
"""Commands that the ledger remembers. When none of them may be forgotten: refused as `ledger`."""
NOTES: Final = 64
"""Refusals that wait to be fetched. Beyond it they are only counted."""
MEMORY_EVENTS_MAX: Final = 64
"""Answers to questions, which are asked again when they are lost. The oldest goes first."""

LOOK_KEPT_MS: Final = 3_600_000
"""How long the ledger has to remember a command that changed nothing: running it twice does no harm."""
REFUSAL_KEPT_MS: Final = 86_400_000
"""And one that was refused."""

JOB_BYTES: Final = 48 * 1024
"""Everything about one command that its supervisor has to know. More is refused as `not_allowed`."""
RESULT_BYTES: Final = 68 * 1024
"""One event of EVENT_BYTES_MAX, with what is around it."""
NOTE_BYTES: Final = 4 * 1024

REFUSALS_BURST: Final = 30
REFUSALS_EVERY_S: Final = 10.0
"""Orders of which nothing can be believed: so many are told at once, then one every so often. The rest is a number."""
ANSWERS_BURST: Final = 512
ANSWERS_EVERY_S: Final = 1.0
"""And refusals of what the collector did sign."""

START_S: Final = 10.0
"""A supervisor that has not begun so long after it was asked for will not."""
POLL_S: Final = 0.05
POLL_LONG_S: Final = 0.5
POLL_SHORT_FOR_S: Final = 3.0
POLL_IDLE_S: Final = 5.0
"""What runs is looked at this often: since something began or ended, when it takes longer, and when nothing runs."""
LEFT_S: Final = 30.0
"""Processes that even SIGKILL does not end (they hang in the kernel) are waited for so long, and told."""
OBSERVES_MAX: Final = 4
"""Readings at a time. Beyond it: busy."""
EXECUTABLE_BYTES_MAX: Final = 512 * 1024 * 1024
"""That are read to compare them with a pinned SHA-256."""
SECRET_BYTES_MAX: Final = 4 * 1024
FAULTS_TOLD_MAX: Final = 50
"""In an inventory; the rest is a number."""
INVENTORY_PART_BYTES: Final = 48 * 1024
"""Of actions in one part of an inventory."""
