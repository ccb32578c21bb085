"""What a roster is made from: a file that a person writes and signs with an offline key; and the signed text itself.

    site = "main"
    [[person]]
    name = "anna"
    key = "7d5f...64 hexadecimal digits"     # what `watchbill roster key` printed for her
    roles = ["dba"]
    scopes = ["team=db"]
    until = "2027-06-30"

The signed roster is text, too: base64 in lines, so that it can be mailed, printed and compared.
"""

import base64
import binascii
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

from watchbill.actions import bounds
from watchbill.actions.canonical import DOCUMENT_BYTES_MAX
from watchbill.actions.roster import DAY_MS, Person, Roster, glance
from watchbill.config import Wrong, load, option
from watchbill.config.convert import show_value
from watchbill.errors import Unreadable
from watchbill.files import UnreadableFile, read_bounded
from watchbill_collector.cli.errors import Misused

SIGNED_BYTES_MAX: Final = 2 * DOCUMENT_BYTES_MAX
LINE_CHARACTERS: Final = 76
DAYS_DEFAULT: Final = bounds.ROSTER_DAYS_MAX

_KEY: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_SCOPE: Final = re.compile(
    r"[A-Za-z_][A-Za-z0-9_]*=[A-Za-z0-9_.:@/-]+(?:,[A-Za-z_][A-Za-z0-9_]*=[A-Za-z0-9_.:@/-]+)*"
)


def _name(value: str) -> str | None:
    fine = 0 < len(value) <= bounds.NAME_CHARACTERS_MAX and value.isprintable() and value == value.strip()
    return None if fine else f"1 to {bounds.NAME_CHARACTERS_MAX} printable characters"


def _key(value: str) -> str | None:
    return None if _KEY.fullmatch(value) else "64 hexadecimal digits, as `watchbill roster key` prints them"


def _roles(values: Sequence[str]) -> Iterator[Wrong]:
    if not values:
        yield Wrong("", "nothing", 'what he may approve as, such as ["dba"]')
    for number, value in enumerate(values):
        if _name(value):
            yield Wrong((number,), show_value(value), "the name of a role")


def _scopes(values: Sequence[str]) -> Iterator[Wrong]:
    for number, value in enumerate(values):
        if not _SCOPE.fullmatch(value):
            yield Wrong((number,), show_value(value), 'labels bound at enrolment, such as "team=db,site=b1"')


def _until(value: str) -> str | None:
    try:
        if value:
            date.fromisoformat(value)
    except ValueError:
        return 'a day such as "2027-06-30"'
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonTable:
    """Somebody who may approve."""

    name: str = option(check=_name, help="As he is called on the collector.")
    key: str = option(check=_key, help="The public half of his approval key.")
    roles: list[str] = option(length_max=32, check=_roles, help="What actions ask for.")
    scopes: list[str] = option([], length_max=32, check=_scopes, help="On which hosts; none: all.")
    until: str = option("", check=_until, help="The last day on which he may.")

    def person(self) -> Person:
        """As the roster has him; his last day is whole, in UTC."""
        ends_ms = 0
        if self.until:
            after = datetime.combine(date.fromisoformat(self.until), datetime.min.time(), UTC) + timedelta(
                days=1
            )
            ends_ms = int(after.timestamp() * 1000)
        return Person(
            name=self.name,
            key=bytes.fromhex(self.key),
            roles=tuple(self.roles),
            scopes=tuple(self.scopes),
            expires_ms=ends_ms,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RosterFile:
    """What is to be signed."""

    site: str = option(check=_name, help="Whose hosts.")
    person: list[PersonTable] = option([], length_max=bounds.ROSTER_PEOPLE_MAX, help="Who may approve.")

    def check(self) -> Iterator[Wrong]:
        """Nobody is there twice: one person with two names would be two approvers."""
        for key in ("name", "key"):
            seen: set[str] = set()
            for number, one in enumerate(self.person):
                value = str(getattr(one, key))
                if value in seen:
                    yield Wrong(("person", number, key), show_value(value), "it once")
                seen.add(value)


def read_file(path: Path) -> RosterFile:
    """What a person wrote. Raises ConfigError with every mistake, each with its line."""
    return load(RosterFile, path)


def roster_of(file: RosterFile, serial: int, now_ms: int, days: int) -> Roster:
    """The next version of a roster."""
    return Roster(
        site=file.site,
        serial=serial,
        issued_ms=now_ms,
        expires_ms=now_ms + days * DAY_MS,
        people=tuple(one.person() for one in file.person),
    )


def armoured(signed: bytes) -> str:
    """A signed roster as text."""
    return "\n".join(textwrap.wrap(base64.b64encode(signed).decode("ascii"), LINE_CHARACTERS)) + "\n"


def read_signed(path: Path) -> bytes:
    """A signed roster from its text. Raises Misused."""
    try:
        text = read_bounded(path, SIGNED_BYTES_MAX).decode("ascii")
        signed = base64.b64decode("".join(text.split()), validate=True)
        glance(signed)
    except UnreadableFile as exc:
        raise Misused(f"{path}: got {exc.got}, wanted {exc.wanted}") from exc
    except (UnicodeDecodeError, binascii.Error, Unreadable) as exc:
        raise Misused(f"{path} is no signed roster: {exc}", "watchbill roster sign FILE --key KEY") from exc
    return signed


def differences(before: Roster | None, after: Roster) -> list[str]:
    """What changes, a line each: who signs reads this before he does."""
    old = {one.name: one for one in before.people} if before else {}
    new = {one.name: one for one in after.people}
    lines = [f"- {name}: may approve nothing any more" for name in old if name not in new]
    for name, one in new.items():
        was = old.get(name)
        if was is None:
            lines.append(f"+ {name}: {describe(one)}")
        elif was != one:
            changed = " with another key" if was.key != one.key else ""
            lines.append(f"~ {name}{changed}: {describe(one)}; was {describe(was)}")
    return lines


def describe(person: Person) -> str:
    """What somebody may do."""
    where = " or ".join(person.scopes) if person.scopes else "every host"
    until = ""
    if person.expires_ms:
        last = datetime.fromtimestamp(person.expires_ms / 1000, UTC) - timedelta(seconds=1)
        until = f", until {last:%Y-%m-%d}"
    return f"{', '.join(person.roles)} on {where}{until}"
