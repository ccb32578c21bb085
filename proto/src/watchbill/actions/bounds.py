"""How much actions, commands and approvals may hold. Beyond it a file or a document is refused as a whole."""

from typing import Final

ACTIONS_MAX: Final = 500
"""Of one host."""
NAME_CHARACTERS_MAX: Final = 64
"""Of an action, an argument, a runbook, a step, a person."""
ABOUT_CHARACTERS_MAX: Final = 500
ARGV_MAX: Final = 64
ARGV_CHARACTERS_MAX: Final = 4 * 1024
"""Of one element."""
ARGUMENTS_MAX: Final = 32
ARGUMENT_CHARACTERS_MAX: Final = 256
"""Of a value; with `match`, so much is matched at most."""
CHOICES_MAX: Final = 100
SECRETS_MAX: Final = 8
OUTPUT_BYTES_MAX: Final = 64 * 1024
"""Of what an action printed and its host keeps; the rest is counted."""
TIMEOUT_S_MAX: Final = 24 * 3600
COOLDOWN_S_MAX: Final = 30 * 86_400
PARALLEL_MAX: Final = 32
APPROVALS_MAX: Final = 8
"""People that one action may ask for."""
EFFECTS_MAX: Final = 512
"""Protected effects behind one gate; more hosts than that are gone through in several gates."""
TIMES_MAX: Final = 128
"""How often one agreement may let one effect begin on one host: more than a step's retries may be."""
DAY_MS: Final = 86_400_000
AGREED_DAYS_MAX: Final = 90
"""For how long people may agree to something: a host remembers so long how often it began."""
VOTES_MAX: Final = 32
ROSTER_PEOPLE_MAX: Final = 500
ROSTER_KEYS_MAX: Final = 8
ROSTER_DAYS_MAX: Final = 90
"""A roster older than this approves nothing: whoever left must not live on in a forgotten copy."""
COMMAND_TTL_MS_MAX: Final = 15 * 60_000
"""From a command's signature to the last moment at which it may begin."""
CLOCK_AHEAD_MS_MAX: Final = 60_000
"""How far a command may seem to come from the future before the clocks are too different to judge it."""
LEDGER_DAYS: Final = 30
"""How long a host knows which commands it has seen."""
