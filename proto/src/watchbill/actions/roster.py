"""The roster: who may approve, with which key. Signed by offline roster keys, whose public halves root of each host
installs in `roster.pub`; the collector only carries it and cannot make one.

    # roster.pub: one key a line, anything after it is for people
    ed25519 7d5f...64 hexadecimal digits... ops safe, envelope 3

A host takes a roster whose signature holds by one of these keys and whose serial is not below the newest it has seen,
and believes it for ROSTER_DAYS_MAX days from its issue. No `roster.pub`: no protected action runs.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from watchbill.actions import bounds
from watchbill.actions.signing import (
    PUBLIC_KEY_BYTES,
    Domain,
    SignatureRefused,
    key_id,
    open_signed,
    sign,
    unverified,
)
from watchbill.errors import Refused, Unreadable

DAY_MS: Final = 86_400_000
PUBLIC_FILE: Final = "roster.pub"
PUBLIC_FILE_BYTES_MAX: Final = 16 * 1024

_LINE: Final = re.compile(r"ed25519\s+([0-9a-f]{64})(?:\s+(.*))?", re.ASCII)
_SCOPE: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=([A-Za-z0-9_.:@/-]+)", re.ASCII)


class RosterRefused(Refused):
    """A roster that says nothing about who may approve, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody who may approve. `key` is an Ed25519 public key; `scopes` are `label=value`, of which one has to fit the
    host's bound labels (each is a list joined by commas, all of which have to fit); none: every host. `expires_ms` 0:
    as long as the roster."""

    name: str
    key: bytes
    roles: tuple[str, ...]
    scopes: tuple[str, ...] = ()
    expires_ms: int = 0

    def covers(self, labels: Mapping[str, str]) -> bool:
        """Whether a host with these labels is in his scope."""
        return not self.scopes or any(
            all(labels.get(match[1]) == match[2] for match in _SCOPE.finditer(scope)) for scope in self.scopes
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """One version. Times are UTC milliseconds."""

    site: str
    serial: int
    issued_ms: int
    expires_ms: int
    people: tuple[Person, ...]

    def person(self, name: str) -> Person | None:
        """By his name."""
        return next((one for one in self.people if one.name == name), None)

    def fault(self, now_ms: int) -> str:
        """Why nobody may approve by it now, or ""."""
        age_ms = now_ms - self.issued_ms
        if age_ms > bounds.ROSTER_DAYS_MAX * DAY_MS:
            return f"the roster is {age_ms // DAY_MS} days old, wanted at most {bounds.ROSTER_DAYS_MAX}"
        if now_ms >= self.expires_ms:
            return "the roster has ended"
        if age_ms < -bounds.CLOCK_AHEAD_MS_MAX:
            return "the roster comes from the future: one of the clocks is wrong"
        return ""

    def document(self) -> dict[str, Any]:
        """What is signed."""
        return {
            "v": 1,
            "site": self.site,
            "serial": self.serial,
            "issued_ms": self.issued_ms,
            "expires_ms": self.expires_ms,
            "people": [
                {
                    "name": one.name,
                    "key": one.key.hex(),
                    "roles": list(one.roles),
                    "scopes": list(one.scopes),
                    "expires_ms": one.expires_ms,
                }
                for one in self.people
            ],
        }


def sign_roster(seed: bytes, roster: Roster) -> bytes:
    """As it is published. Raises Unreadable when it holds too much, or what no roster may say."""
    document = roster.document()
    read_roster(document)
    # Whoever verifies has to know with which of his keys.
    return sign(Domain.ROSTER, seed, document)


def open_roster(keys: Mapping[str, bytes], signed: bytes) -> Roster:
    """A roster that one of the installed keys has signed. `keys` are by `key_id`. Raises RosterRefused."""
    if not keys:
        raise RosterRefused(f"no key of a roster is installed here ({PUBLIC_FILE})")
    for key in keys.values():
        try:
            document = open_signed(Domain.ROSTER, key, signed)
        except SignatureRefused:
            continue
        except Unreadable as exc:
            raise RosterRefused(str(exc)) from exc
        try:
            return read_roster(document)
        except Unreadable as exc:
            raise RosterRefused(str(exc)) from exc
    raise RosterRefused(f"the roster is signed by none of the {len(keys)} keys that are installed here")


def glance(signed: bytes) -> Roster:
    """What a roster says of itself, for who only carries or prints it. Nothing of it is proved. Raises Unreadable."""
    return read_roster(unverified(signed))


def read_roster(document: Mapping[str, Any]) -> Roster:
    """A roster from what was signed. Raises Unreadable."""
    try:
        people = tuple(_person(one) for one in document["people"])
        found = Roster(
            site=_text(document["site"]),
            serial=_count(document["serial"]),
            issued_ms=_count(document["issued_ms"]),
            expires_ms=_count(document["expires_ms"]),
            people=people,
        )
    except (KeyError, ValueError, TypeError, AttributeError) as exc:
        raise Unreadable(f"a roster: {exc!r}") from exc
    if len(people) > bounds.ROSTER_PEOPLE_MAX:
        raise Unreadable(f"a roster of {len(people)} people, wanted at most {bounds.ROSTER_PEOPLE_MAX}")
    for what, seen in (("name", [one.name for one in people]), ("key", [one.key.hex() for one in people])):
        twice = sorted({one for one in seen if seen.count(one) > 1})
        if twice:
            # One person with two names would be two approvers.
            raise Unreadable(f"a roster with the {what} {twice[0]} twice")
    return found


def read_public_file(content: bytes, name: str = PUBLIC_FILE) -> dict[str, bytes]:
    """The keys of `roster.pub` by `key_id`. Raises Unreadable, naming file and line."""
    found: dict[str, bytes] = {}
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError as exc:
        raise Unreadable(f"{name}: got bytes that are no UTF-8, wanted lines of ed25519 and a key") from exc
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise Unreadable(
                f"{name}:{number}: got {line.strip()[:60]!a}, wanted ed25519 and 64 hexadecimal digits"
            )
        key = bytes.fromhex(match[1])
        found[key_id(key)] = key
    if len(found) > bounds.ROSTER_KEYS_MAX:
        raise Unreadable(f"{name}: got {len(found)} keys, wanted at most {bounds.ROSTER_KEYS_MAX}")
    return found


def _person(found: Mapping[str, Any]) -> Person:
    key = bytes.fromhex(_text(found["key"], 2 * PUBLIC_KEY_BYTES))
    if len(key) != PUBLIC_KEY_BYTES:
        raise ValueError(f"a key of {len(key)} bytes")
    scopes = tuple(_text(one, bounds.ARGUMENT_CHARACTERS_MAX) for one in found["scopes"])
    for scope in scopes:
        if not all(_SCOPE.fullmatch(part) for part in scope.split(",")):
            # What cannot be judged on the host must not cover it.
            raise ValueError(f"the scope {scope!a}, wanted label=value")
    name = _text(found["name"])
    if not name or not name.isprintable():
        raise ValueError(f"the name {name!a}")
    return Person(
        name=name,
        key=key,
        roles=tuple(_text(one) for one in found["roles"]),
        scopes=scopes,
        expires_ms=_count(found["expires_ms"]),
    )


def _text(found: object, characters_max: int = bounds.NAME_CHARACTERS_MAX) -> str:
    if not isinstance(found, str) or len(found) > characters_max:
        raise ValueError(f"wanted text of at most {characters_max} characters")
    return found


def _count(found: object) -> int:
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise ValueError("wanted a whole number from 0")
    return found
