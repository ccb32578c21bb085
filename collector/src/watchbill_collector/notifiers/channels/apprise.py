"""Sends through Apprise, which knows a hundred services that have no kind of their own here.

Needs `pip install 'watchbill-collector[apprise]'`. The address (`tgram://...`, `ntfys://...`) is the secret, so it
stands in `url_file`. Apprise knows no incident key and no difference between an answer that will never change and one
that may: every failure is tried again until the notice is given up, and a repeat after a crash comes twice. Where a
service has a kind of its own, that one is better. Each notice has a process of its own, which ends with it.
"""

import asyncio
import contextlib
import importlib.util
import os
import re
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from watchbill.config import option
from watchbill_collector.notifiers.channel import (
    TEXT_HELP,
    TITLE_HELP,
    Channel,
    Common,
    Surroundings,
    read_secret,
    template_wanted,
)
from watchbill_collector.notifiers.document import encode
from watchbill_collector.notifiers.filling import words
from watchbill_collector.notifiers.hostile import line
from watchbill_collector.notifiers.notice import (
    DETAIL_CHARS_MAX,
    Delivered,
    Notice,
    NoticeKind,
    SendFailed,
)
from watchbill_collector.notifiers.peer import hidden
from watchbill_collector.notifiers.secret import Secret, SecretFile

LIBRARY: Final = "apprise"
INSTALL: Final = "apprise is not installed here: pip install 'watchbill-collector[apprise]'"
CHILD: Final = Path(__file__).parent.parent / "apprise_child.py"
PATH: Final = "/usr/local/bin:/usr/bin:/bin"
REAP_S: Final = 5.0
"""How long a killed child may take to be gone: the kernel frees it at once unless it hangs in a system call."""
PART_CHARS_MIN: Final = 6
"""Shorter parts of an address are words such as `https`."""
ANSWER_BYTES_MAX: Final = 16 << 10
_TYPES: Final = {"critical": "failure", "major": "failure", "minor": "warning"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(Common):
    """One service of Apprise."""

    url_file: SecretFile = option(
        help="File with Apprise's address of the service, one line.", example='"/etc/watchbill/apprise.url"'
    )
    title: str = option("", check=template_wanted, help=TITLE_HELP)
    text: str = option("", check=template_wanted, help=TEXT_HELP)


class Apprise(Channel):
    """One message a notice."""

    kind = "apprise"
    options_type = Options

    def __init__(self, options: Options, surroundings: Surroundings) -> None:  # noqa: ARG002 - As all channels are made.
        self._options = options

    async def send(self, notice: Notice) -> Delivered:
        """Send it by a process of its own, within the timeout."""
        url = read_secret(self._options.url_file)
        said = words(notice, self._options.title, self._options.text)
        limit_s = float(self._options.timeout)
        request = {
            "url": url.reveal(),
            "title": said.title,
            "text": said.text,
            "type": _type(notice),
            "timeout_s": limit_s,
        }
        try:
            async with asyncio.timeout(limit_s):
                answer = await _ask(encode(request))
        except TimeoutError as exc:
            limit = self._options.timeout.to_config()
            raise SendFailed(f"apprise: no end within {limit}", transient=True) from exc
        word, service = str(answer.get("word", "")), line(str(answer.get("service", "")), 80)
        why = line(hidden(str(answer.get("said", "")), _parts(url)), DETAIL_CHARS_MAX)
        if word == "delivered":
            return Delivered(f"{service} took it" if service else "taken")
        if word == "missing":
            raise SendFailed(INSTALL, transient=True, unwelcome=True)
        if word == "unknown":
            raise SendFailed(
                f"apprise: url_file holds no address that it knows{': ' if why else ''}{why}",
                transient=True,
                unwelcome=True,
            )
        raise SendFailed(
            f"apprise: {service or 'the service'} did not take it: {why or 'no reason given'}", transient=True
        )

    def ready(self) -> None:
        """Apprise and the address are there."""
        if importlib.util.find_spec(LIBRARY) is None:
            raise SendFailed(INSTALL, transient=True)
        read_secret(self._options.url_file)


def _parts(url: Secret) -> list[Secret]:
    """The address and its parts, any of which may be a token."""
    parts = re.split(r"[:/@?&=#,]+", url.reveal())
    return [url, *(Secret(part) for part in parts if len(part) >= PART_CHARS_MIN)]


def _type(notice: Notice) -> str:
    if notice.resolved:
        return "success"
    if notice.kind in (NoticeKind.TEST, NoticeKind.DIGEST):
        return "info"
    return _TYPES.get(notice.severity, "info")


async def _ask(request: bytes) -> dict[str, Any]:
    """What the child answers. It is ended when nobody waits for it any more."""
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            str(CHILD),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd="/",
            # No proxy of the environment, and nothing of ours.
            env={"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/nonexistent"},
            start_new_session=True,
        )
    except OSError as exc:
        raise SendFailed(
            f"apprise could not be started: {(exc.strerror or str(exc)).lower()}", transient=True
        ) from exc
    try:
        output, _ = await process.communicate(request)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REAP_S):
                await process.wait()
        # Whatever may still hold the pipe; the library has no other way to let go of it.
        process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001
    try:
        answer = orjson.loads(output[:ANSWER_BYTES_MAX])
    except orjson.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict):
        raise SendFailed(f"apprise ended without an answer, code {process.returncode}", transient=True)
    return answer
