"""`watchbill-collector init`: the authority, the keys, the store, the first administrator.

Made in this order, each whole or not at all, so a crash at any point is mended by running it again:

1. `pki/`: authority and signing keys, in a directory that gets its name when everything in it is synced.
2. the store.
3. the administrator's token file, mode 0600.
4. the administrator, with the hash of that token.

Nothing that exists is ever overwritten. A token file that was moved away (it should be) is not made again.
"""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from watchbill.clock import Clock
from watchbill.errors import StorageError, UsageError
from watchbill.files import FileMissing, make_directory, read_bounded, sync_directory, write_atomic
from watchbill_collector.credentials import TEXT_BYTES_MAX, Credential
from watchbill_collector.pki import AuditKey, Authority, Lifetimes, ServerCertificate, SigningKeys
from watchbill_collector.pki.authority import CA_FILE
from watchbill_collector.store import Store
from watchbill_collector.users import BEARER_PREFIX, Grant, Role, Users

PKI_DIRECTORY: Final = "pki"
TOKEN_FILE: Final = "admin.token"  # noqa: S105 - A file name.
ADMIN: Final = "admin"
_HALF_MADE: Final = ".pki.new"


@dataclass(frozen=True, slots=True)
class Initialised:
    """What `init` found or made. `made` names what is new, in order; empty: everything was there already."""

    pki: Path
    token_file: Path
    ca_sha256: str
    made: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pki:
    """The site's authority, signing keys and server certificate, opened."""

    authority: Authority
    keys: SigningKeys
    server: ServerCertificate
    audit: AuditKey

    @property
    def authority_file(self) -> Path:
        """The authority's certificate, public."""
        return self.server.path.with_name(CA_FILE)


def initialise(
    state: Path,
    site: str,
    names: Sequence[str],
    clock: Clock,
    *,
    store_url: str = "",
    store_password: str = "",
    lifetimes: Lifetimes | None = None,
) -> Initialised:
    """Make what is missing under `state`. `names` are the server certificate's.

    Raises UsageError when a running collector holds the store or it is another site's, StorageError,
    ConfigError, Unreadable for what is there and damaged.
    """
    made: list[str] = []
    make_directory(state)
    directory = state / PKI_DIRECTORY
    if _make_pki(state, site, clock):
        made.append("certificate authority and keys")
    pki = open_pki(state, lifetimes or Lifetimes())
    if pki.server.refresh(names, clock.wall_ms()):
        made.append("server certificate")
    with Store.open(state, site, store_url, store_password) as store:
        store.sign_with(pki.audit)
        users = Users(store, clock)
        if not users.users():
            made.append(f"user {ADMIN}")
            _make_admin(state / TOKEN_FILE, users)
    return Initialised(directory, state / TOKEN_FILE, pki.authority.spki_sha256.hex(), tuple(made))


def open_pki(state: Path, lifetimes: Lifetimes) -> Pki:
    """Open what `init` made. Raises UsageError when it has not been run, Unreadable."""
    directory = state / PKI_DIRECTORY
    audit = audit_key(state)
    authority = Authority.load(directory)
    server = ServerCertificate(directory, authority, lifetimes)
    return Pki(authority, SigningKeys.load(directory), server, audit)


def audit_key(state: Path) -> AuditKey:
    """The key that signs the audit. Raises UsageError when `init` has not been run, Unreadable, StorageError."""
    if not (state / PKI_DIRECTORY).exists():
        raise UsageError(f"{state / PKI_DIRECTORY} is not there: run watchbill-collector init first")
    return AuditKey.open(state / PKI_DIRECTORY)


def _make_pki(state: Path, site: str, clock: Clock) -> bool:
    if (state / PKI_DIRECTORY).exists():
        return False
    half_made = state / _HALF_MADE
    _empty(half_made)
    make_directory(half_made)
    Authority.create(half_made, site, clock.wall_ms())
    SigningKeys.create(half_made)
    AuditKey.open(half_made)
    try:
        half_made.rename(state / PKI_DIRECTORY)
        sync_directory(state)
    except OSError as exc:
        raise StorageError(f"{state / PKI_DIRECTORY}: could not be made: {exc.strerror}") from exc
    return True


def _empty(half_made: Path) -> None:
    """Clear away what a crash left: keys that have never signed anything."""
    if not half_made.exists():
        return
    for file in half_made.iterdir():
        file.unlink()
    half_made.rmdir()


def _make_admin(token_file: Path, users: Users) -> None:
    try:
        text = read_bounded(token_file, TEXT_BYTES_MAX).decode("ascii", "replace").strip()
    except FileMissing:
        # The file before the hash: a token that nobody has would lock everybody out.
        text = Credential.new(BEARER_PREFIX).encode()
        write_atomic(token_file, text.encode() + b"\n")
    admin = users.add_blocking(ADMIN, [Grant(Role.ADMIN)], token=text, actor="init")
    assert admin.name == ADMIN


def default_names(address: str, names: Sequence[str]) -> list[str]:
    """The server certificate's names by configuration: the address agents use, further names, and
    loopback.
    """
    own = address or socket.gethostname()
    return list(dict.fromkeys([own, *names, "localhost", "127.0.0.1", "::1"]))


def trust_file(state: Path) -> Path:
    """The authority's certificate, public, for those who want to verify the ports with other tools."""
    return state / PKI_DIRECTORY / CA_FILE
