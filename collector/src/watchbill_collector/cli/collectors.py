"""Which collector, and as whom.

In order: `--url`, `WATCHBILL_URL`, the file that `watchbill login` wrote, the file of a running demo of this
user, then http://127.0.0.1:7480. The token comes from `--token-file` or `WATCHBILL_TOKEN_FILE`, or from the
file whose collector it is. Files that hold a token have to be the user's own, and nobody else's to read.
"""

import errno
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from watchbill_collector.cli.errors import Misused

DEFAULT_URL = "http://127.0.0.1:7480"
FILE_BYTES_MAX = 65_536
NOWHERE = Path("/nonexistent")
"""The home of users who have none, as in Debian's passwd."""
TOKEN_CHARACTERS_MAX = 512


@dataclass(frozen=True, slots=True)
class Collector:
    """An address, the token for it (empty when there is none), and where the address came from."""

    url: str
    token: str
    source: str
    authority: str = ""
    """The certificates (PEM) that alone are trusted to vouch for it; empty: those that this machine trusts."""


def choose(url: str | None, token_file: Path | None) -> Collector:
    """The collector to talk to. Raises Misused."""
    known = [(path, source) for path, source in ((login_file(), "login"), (demo_file(), "demo"))]
    address, source = url, "--url"
    if address is None:
        address, source = os.environ.get("WATCHBILL_URL") or None, "WATCHBILL_URL"
    token = authority = ""
    for path, name in known:
        document = read_private(path)
        if document is None or (name == "demo" and not _alive(document)):
            continue
        there = str(document.get("url", ""))
        if address is None:
            address, source = there, name
        if normal_url(there) == normal_url(address):
            token = token or str(document.get("token", ""))
            authority = authority or str(document.get("ca", ""))
    named = token_file or _environment_path("WATCHBILL_TOKEN_FILE")
    if named is not None:
        token = read_token(named)
    return Collector(normal_url(address or DEFAULT_URL), token, source if address else "default", authority)


def normal_url(text: str) -> str:
    """An address as it is compared and used. Raises Misused."""
    from urllib.parse import urlsplit

    full = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(full)
        port = parts.port
    except ValueError as exc:
        raise Misused(f"{text!r} is no address of a collector", "--url http://HOST:7480") from exc
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or parts.username
        or parts.path not in ("", "/")
    ):
        raise Misused(f"{text!r} is no address of a collector", "--url http://HOST:7480")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port}" if port else f"{parts.scheme}://{host}"


def _environment_path(name: str) -> Path | None:
    value = os.environ.get(name)
    return Path(value) if value else None


def login_file() -> Path:
    """Where `watchbill login` keeps its answer."""
    base = os.environ.get("XDG_CONFIG_HOME")
    try:
        home = Path(base) if base and Path(base).is_absolute() else Path.home() / ".config"
    except RuntimeError:
        home = NOWHERE  # Without HOME, and unknown to this machine: a container's user of any number.
    return home / "watchbill" / "login.json"


def runtime_directory() -> Path:
    """The user's runtime directory; our own under the temporary directory where there is none."""
    for candidate in (os.environ.get("XDG_RUNTIME_DIR"), f"/run/user/{os.getuid()}"):
        if candidate and Path(candidate).is_absolute() and os.access(candidate, os.W_OK | os.X_OK):
            return Path(candidate)
    import tempfile

    return Path(tempfile.gettempdir()) / f"watchbill-{os.getuid()}"


def demo_file() -> Path:
    """Where a running demo says what it is."""
    return runtime_directory() / "watchbill-demo.json"


def _alive(document: dict[str, Any]) -> bool:
    pid = document.get("pid")
    return isinstance(pid, int) and pid > 0 and Path(f"/proc/{pid}").exists()


def read_private(path: Path) -> dict[str, Any] | None:
    """A JSON file of the user's own; None when there is none. Raises Misused when others could have written
    it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with open(descriptor, "rb") as file:
        seen = os.fstat(descriptor)
        if not stat.S_ISREG(seen.st_mode):
            return None
        if seen.st_uid != os.getuid() or seen.st_mode & 0o077:
            raise Misused(f"{path} holds a token and is open to others", f"chmod 600 {path}")
        content = file.read(FILE_BYTES_MAX)
    try:
        document = json.loads(content)
    except ValueError as exc:
        raise Misused(f"{path} is not readable as JSON", f"rm {path}; watchbill login URL") from exc
    return document if isinstance(document, dict) else None


def write_private(path: Path, document: dict[str, Any]) -> None:
    """Replace a private file, whole or not at all. Raises OSError, also when its directory is another's."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    place = path.parent.lstat()
    if not stat.S_ISDIR(place.st_mode) or place.st_uid != os.getuid() or place.st_mode & 0o022:
        raise PermissionError(errno.EACCES, "others may write in its directory", str(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
    )
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump(document, file)
        file.flush()
        os.fsync(descriptor)
    temporary.replace(path)


def read_authority(path: Path) -> str:
    """The certificates in a file. Raises Misused."""
    import ssl

    try:
        with open(path, encoding="ascii") as file:
            text = file.read(FILE_BYTES_MAX)
        ssl.create_default_context(cadata=text)
    except (OSError, UnicodeDecodeError, ssl.SSLError) as exc:
        raise Misused(f"{path} holds no certificate that can be read: {exc}", "--ca-file FILE") from exc
    return text


def read_token(path: Path) -> str:
    """The token in a file, or on standard input for `-`. Raises Misused."""
    import sys

    try:
        if str(path) == "-":
            text = sys.stdin.read(TOKEN_CHARACTERS_MAX + 1)
        else:
            with open(path, encoding="utf-8") as file:
                text = file.read(TOKEN_CHARACTERS_MAX + 1)
    except (OSError, UnicodeDecodeError) as exc:
        raise Misused(f"{path}: the token cannot be read: {exc}", "--token-file FILE") from exc
    token = text.strip()
    if not token or len(token) > TOKEN_CHARACTERS_MAX or not token.isascii() or not token.isprintable():
        raise Misused(f"{path} does not hold a token", "--token-file FILE")
    return token
