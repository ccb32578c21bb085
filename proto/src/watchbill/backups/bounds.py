"""How much a record and a definition may hold. Apart from them, because a wrapped command waits for every import."""

from typing import Final

JOB_NAME_CHARACTERS_MAX: Final = 64
ERRORS_MAX: Final = 10
ERROR_CHARACTERS_MAX: Final = 500
TAIL_CHARACTERS_MAX: Final = 8 * 1024
TEXT_CHARACTERS_MAX: Final = 256
NUMBER_MAX: Final = 2**53
"""Times, sizes and counts lie within 0 and this, which every reader of JSON can hold."""
LEVEL_CHARACTERS_MAX: Final = 16
"""Of the level of a proof that is asked for."""
