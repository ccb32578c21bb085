"""Where a daemon's files are. Apart from the configuration, because short commands need nothing else of it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

HOME_VARIABLE = "WATCHBILL_HOME"


class Homes(NamedTuple):
    """Where a daemon's files are. No dataclass: importing those takes short commands 15 ms.

    `etc` is shared by the daemons of a host; `var` (state, private) and `run` (sockets, locks) are the
    daemon's own.
    """

    etc: Path
    var: Path
    run: Path

    @staticmethod
    def resolve(daemon: str, home: Path | None = None, env: Mapping[str, str] = os.environ) -> "Homes":
        """The homes of `daemon` ("agent", "collector", "runner"): the system's, or all under one directory.

        `home` is what --home said; without it the variable WATCHBILL_HOME counts.
        """
        if home is None and env.get(HOME_VARIABLE):
            home = Path(env[HOME_VARIABLE])
        if home is not None:
            home = home.absolute()
            return Homes(home / "etc", home / "var" / daemon, home / "run" / daemon)
        return Homes(
            Path("/etc/watchbill"), Path("/var/lib/watchbill") / daemon, Path("/run/watchbill") / daemon
        )
