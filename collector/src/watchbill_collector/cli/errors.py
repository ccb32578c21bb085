"""What ends a command, and with which exit code."""

OK = 0
FAILED = 1
USAGE = 2
HELD = 3
WAITING = 4
UNREACHABLE = 5
REFUSED = 6


class CommandFailed(Exception):
    """The command ends here. `hint` is the next thing to type, `code` the exit code."""

    def __init__(self, message: str, hint: str = "", code: int = FAILED) -> None:
        super().__init__(message)
        self.hint = hint
        self.code = code


class Unreachable(CommandFailed):
    """Nobody answered."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint, UNREACHABLE)


class Refused(CommandFailed):
    """The collector understood and said no."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint, REFUSED)


class Misused(CommandFailed):
    """What was typed, or a file it names, cannot be used."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint, USAGE)
