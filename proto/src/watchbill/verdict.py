"""What a check found, as both ends have it: the agent that looks, and the collector that judges an application."""

from enum import IntEnum


class Verdict(IntEnum):
    """The numbers are those of the monitoring plugins' convention, and of series `watchbill_check_status`."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3

    @property
    def word(self) -> str:
        """As events and people say it."""
        return self.name.lower()
