"""The archive: a zip of plain documents, an index with the digest of each, and the collector's name under the index.

    index.signed    64 bytes of Ed25519 signature, then canonical JSON: what this is, and of every file its SHA-256
    README.txt      how it is checked
    ...             documents: JSON, JSON lines, the runbook's own text

The same content makes the same bytes: files stand in order, dates in the zip say nothing. It is read with bounds, and
nothing of it is unpacked onto a disk.
"""

import hashlib
import io
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import nacl.bindings
import nacl.exceptions

from watchbill.actions.canonical import canonical, read_canonical
from watchbill.actions.signing import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Domain
from watchbill.errors import Unreadable

INDEX: Final = "index.signed"
INDEX_BYTES_MAX: Final = 4 << 20
FILES_MAX: Final = 20_000
ARCHIVE_BYTES_MAX: Final = 64 << 20
"""Of the zip, as it is sent. More is refused: ask for a shorter time."""
CONTENT_BYTES_MAX: Final = 256 << 20
"""Of all documents unpacked: a zip that says it holds more is not read."""
PATH_CHARACTERS_MAX: Final = 256
_DATE: Final = (1980, 1, 1, 0, 0, 0)
_LEVEL: Final = 6

Sign = Callable[[bytes], bytes]


class TooLarge(Unreadable):
    """More than one archive holds."""


@dataclass(frozen=True, slots=True)
class Index:
    """What was signed. `about` says what the archive is; `files` have their SHA-256 and length."""

    about: Mapping[str, Any]
    files: Mapping[str, tuple[str, int]]
    key: bytes


@dataclass(frozen=True, slots=True)
class Opened:
    """An archive as it was read. `fault`: why its index cannot be believed, "" when its signature holds."""

    index: Index | None
    files: Mapping[str, bytes]
    fault: str


def pack(about: Mapping[str, Any], files: Mapping[str, bytes], key: bytes, sign: Sign) -> bytes:
    """The archive. Raises TooLarge."""
    if len(files) > FILES_MAX:
        raise TooLarge(f"{len(files)} documents, an archive holds {FILES_MAX}: ask for a shorter time")
    listed = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        for name, content in files.items()
    }
    content = canonical({"v": 1, "about": dict(about), "files": listed, "key": key.hex()})
    signed = sign(Domain.EVIDENCE.value + content) + content
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as made:
        for name, body in ((INDEX, signed), *sorted(files.items())):
            entry = zipfile.ZipInfo(name, _DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o444 << 16
            entry.create_system = 3
            made.writestr(entry, body)
            if out.tell() > ARCHIVE_BYTES_MAX:
                raise TooLarge(f"more than {ARCHIVE_BYTES_MAX} bytes: ask for a shorter time")
    return out.getvalue()


def unpack(content: bytes) -> Opened:
    """Read an archive, within bounds. Raises Unreadable for what is none."""
    if len(content) > ARCHIVE_BYTES_MAX:
        raise Unreadable(f"{len(content)} bytes, wanted an archive of at most {ARCHIVE_BYTES_MAX}")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as found:
            files = _files(found)
    except (zipfile.BadZipFile, OSError, RuntimeError, ValueError, EOFError) as exc:
        raise Unreadable(f"no zip archive that can be read: {exc}") from exc
    except zlib.error as exc:
        raise Unreadable(f"a damaged zip archive: {exc}") from exc
    signed = files.pop(INDEX, None)
    if signed is None:
        raise Unreadable(f"there is no {INDEX} in it: this is no evidence of Watchbill's")
    try:
        index = _index(signed)
    except Unreadable as exc:
        return Opened(None, files, f"{INDEX}: {exc}")
    return Opened(index, files, "" if _holds(index.key, signed) else f"{INDEX}: its signature does not hold")


def _files(found: zipfile.ZipFile) -> dict[str, bytes]:
    entries = found.infolist()
    if len(entries) > FILES_MAX + 1:
        raise Unreadable(f"{len(entries)} files, wanted at most {FILES_MAX}")
    names = [entry.filename for entry in entries]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise Unreadable(f"{twice[0][:PATH_CHARACTERS_MAX]!a} is in it twice")
    files: dict[str, bytes] = {}
    left = CONTENT_BYTES_MAX
    for entry in entries:
        with found.open(entry) as one:
            # What its directory says of a file's length is anybody's word.
            body = one.read(left + 1)
        if len(body) > left:
            raise Unreadable(f"more than {CONTENT_BYTES_MAX} bytes unpacked")
        left -= len(body)
        files[entry.filename] = body
    return files


def _index(signed: bytes) -> Index:
    document = read_canonical(signed[SIGNATURE_BYTES:], INDEX_BYTES_MAX)
    try:
        key = bytes.fromhex(document["key"])
        if document["v"] != 1 or len(key) != PUBLIC_KEY_BYTES:
            raise ValueError(f"version {document['v']!a:.20}, a key of {len(key)} bytes")
        return Index(
            about=dict(document["about"]),
            files={
                str(name): (str(one["sha256"]), int(one["bytes"])) for name, one in document["files"].items()
            },
            key=key,
        )
    except (KeyError, ValueError, TypeError, AttributeError) as exc:
        raise Unreadable(f"no index of this version: {exc!r}") from exc


def _holds(key: bytes, signed: bytes) -> bool:
    signature, content = signed[:SIGNATURE_BYTES], signed[SIGNATURE_BYTES:]
    return signature_holds(key, signature, Domain.EVIDENCE.value + content)


def signature_holds(key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether an Ed25519 signature holds; wrong lengths and bad points are simply wrong."""
    try:
        nacl.bindings.crypto_sign_open(signature + message, key)
    except (nacl.exceptions.CryptoError, ValueError, TypeError):
        return False
    return len(signature) == SIGNATURE_BYTES
