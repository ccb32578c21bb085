"""What a host answers when the collector asks it to verify a backup (`protocol.frames.VerifyBackup`): an event under
the request's own id, so that it is there once. What is found is a record, whose `run_id` is the request's id.
"""

from typing import Final

BACKUP_ANSWERED: Final = "backup.answered"
"""`request` in hexadecimal, `job`, `answer`: BEGUN with `level` and `copy`, or REFUSED with `reason` and `why`, which
says it to a person."""
BEGUN: Final = "begun"
REFUSED: Final = "refused"

UNKNOWN_JOB: Final = "unknown-job"
"""No file of this host defines it."""
NOT_DECLARED: Final = "not-declared"
"""Its `backups.d` asks for no such proof, or leaves it to others (`run = false`)."""
NOT_VERIFIABLE: Final = "not-verifiable"
"""Its tool has no such verification, or it needs an option that is not set."""
NEEDS_RUNNER: Final = "needs-runner"
"""The agent's user may not read the repository."""
ALREADY_RUNNING: Final = "already-running"
"""It is being verified."""
BUSY: Final = "busy"
"""Another one is being verified: one at a time."""
STUCK: Final = "stuck"
"""A look at its repository could not be ended."""
TOO_SOON: Final = "too-soon"
"""What was asked for lately took the time that a host gives."""

WHY_CHARACTERS_MAX: Final = 300
REASON_CHARACTERS_MAX: Final = 32
