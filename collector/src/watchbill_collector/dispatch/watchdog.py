"""The outgoing ping: as long as ingest, evaluation and outbox make progress, somebody outside hears of us.

When one of them stands still nothing is sent, and whoever waits for the ping raises the alarm that we cannot. A
ping that fails is counted and logged once; the next comes at its time.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from watchbill.errors import ConfigError, Problem
from watchbill.files import FileMissing, UnreadableFile, read_bounded
from watchbill.logs import fields
from watchbill_collector.dispatch.settings import Watchdog

log = logging.getLogger("watchbill.watchdog")

HEADERS_BYTES_MAX: Final = 64 * 1024
HEADERS_MAX: Final = 32
ANSWER_BYTES_MAX: Final = 64 * 1024
"""What is read of an answer; nobody looks at it."""


def read_headers(path: Path | None) -> dict[str, str]:
    """The headers of a file, `Name: value` a line. Raises ConfigError, which never shows a value."""
    if path is None:
        return {}

    def wrong(line: int, got: str) -> ConfigError:
        return ConfigError([Problem(str(path), line, "watchdog.headers_file", got, "lines of `Name: value`")])

    try:
        text = read_bounded(path, HEADERS_BYTES_MAX).decode("ascii")
    except (FileMissing, UnreadableFile) as exc:
        raise wrong(0, exc.got) from exc
    except UnicodeDecodeError:
        raise wrong(0, "something that is not ASCII") from None
    if path.stat().st_mode & 0o077:
        raise wrong(0, "a file that others may read")
    headers: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        name, colon, value = line.partition(":")
        if not colon or not name.strip().replace("-", "").isalnum() or not value.strip().isprintable():
            raise wrong(number, "a line that is no header")
        headers[name.strip()] = value.strip()
    if len(headers) > HEADERS_MAX:
        raise wrong(0, f"{len(headers)} headers, at most {HEADERS_MAX}")
    return headers


class WatchdogPing:
    """`stalled` answers which parts stand still, nothing when all make progress."""

    def __init__(
        self, options: Watchdog, headers: Mapping[str, str], stalled: Callable[[], list[str]]
    ) -> None:
        self.outcomes: dict[str, int] = {"ok": 0, "failed": 0, "withheld": 0}
        self.last_error = ""
        self._options = options
        self._headers = dict(headers)
        self._stalled = stalled
        self._said: tuple[str, ...] = ()

    async def run(self) -> None:
        """For ever."""
        import httpx2

        # Redirects are not followed and proxies of the environment not used: where it goes is what the file says.
        async with httpx2.AsyncClient(
            timeout=float(self._options.timeout), follow_redirects=False, trust_env=False
        ) as client:
            loop = asyncio.get_running_loop()
            due_s = loop.time()
            while True:
                await self.turn(client)
                every_s = float(self._options.every)
                missed = max(0, math.floor((loop.time() - due_s) / every_s))
                due_s += (missed + 1) * every_s
                await asyncio.sleep(max(0.0, due_s - loop.time()))

    async def turn(self, client: Any) -> str:
        """One ping, or none; what came of it."""
        stalled = self._stalled()
        if stalled:
            self._note("withheld", "no progress: " + ", ".join(sorted(stalled)))
            return "withheld"
        try:
            async with asyncio.timeout(float(self._options.timeout)):
                request = client.stream(self._options.method, self._options.url, headers=self._headers)
                async with request as answer:
                    status = int(answer.status_code)
        except (TimeoutError, OSError, ValueError) as exc:
            self._note("failed", f"{type(exc).__name__}: no answer")
            return "failed"
        except Exception as exc:
            if not type(exc).__module__.startswith("httpx"):
                raise
            self._note("failed", type(exc).__name__)
            return "failed"
        if not 200 <= status < 300:
            self._note("failed", f"HTTP {status}")
            return "failed"
        self._note("ok", "")
        return "ok"

    def _note(self, outcome: str, why: str) -> None:
        self.outcomes[outcome] += 1
        self.last_error = why
        said = (outcome, why)
        if said == self._said:
            return
        if outcome != "ok":
            log.error("the watchdog is not pinged", extra=fields(outcome=outcome, why=why))
        elif self._said:
            log.warning("the watchdog is pinged again")
        self._said = said
