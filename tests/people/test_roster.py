"""Rosters: made and signed away from the collector, carried by it, and worth nothing without keys that hosts hold."""

import base64
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from watchbill.actions.definition import Action, Effect, Needs
from watchbill.actions.enrolled import read_roster_keys
from watchbill.actions.order import Order, RosterCopy
from watchbill.actions.outcomes import Inventory
from watchbill.actions.roster import DAY_MS, RosterRefused, glance, open_roster
from watchbill.clock import ManualClock, SystemClock
from watchbill.errors import Refused
from watchbill_collector.api.ports import Caller
from watchbill_collector.audit import Audit
from watchbill_collector.cli.program import run
from watchbill_collector.scopes import View, parse_scope
from watchbill_collector.services.roster_desk import Bearer, RosterDesk, RosterMetrics
from watchbill_collector.store import Store
from watchbill_collector.store.audit import Filter

EVERYTHING = View(None)
OPS = Caller("ops", ())


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "home").mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return tmp_path


class Safe:
    """An offline key, and who signs with it."""

    def __init__(self, place: Path, capsys: Any, name: str = "safe") -> None:
        self.place, self.key, self._capsys = place, place / f"{name}.key", capsys
        assert run(["roster", "key", "--roster", str(self.key)]) == 0
        self.public_line = capsys.readouterr().out

    def person(self, name: str) -> str:
        """The public half of somebody's key."""
        from watchbill_collector.cli.approval_key import create, load

        path = self.place / f"{name}.approval"
        if not path.exists():
            create(name, path)
        held = load(path)
        assert held is not None
        return held.public.hex()

    def sign(self, people: str, *options: str, code: int = 0) -> tuple[bytes, str, str]:
        """The signed roster, and what was printed."""
        file = self.place / "people.toml"
        file.write_text(people)
        assert run(["roster", "sign", str(file), "--key", str(self.key), *options]) == code
        said = self._capsys.readouterr()
        signed = file.with_name("people.toml.signed")
        return (base64.b64decode(signed.read_text()) if code == 0 else b""), said.out, said.err


@pytest.fixture
def safe(tmp_path: Path, capsys: Any) -> Safe:
    return Safe(tmp_path, capsys)


def people(safe: Safe, *names: str, more: str = "") -> str:
    return 'site = "main"\n' + "".join(
        f'[[person]]\nname = "{name}"\nkey = "{safe.person(name)}"\nroles = ["dba"]\n{more}' for name in names
    )


def test_a_roster_is_signed_offline_and_believed_by_hosts_with_its_key(safe: Safe, tmp_path: Path) -> None:
    signed, out, _ = safe.sign(
        people(safe, "anna", "boris", more='scopes = ["team=db"]\nuntil = "2099-12-31"\n')
    )
    assert "+ anna: dba on team=db, until 2099-12-31" in out
    (tmp_path / "roster.pub").write_text(safe.public_line)
    (tmp_path / "roster.pub").chmod(0o644)
    found = open_roster(read_roster_keys(tmp_path, tmp_path.stat().st_uid), signed)
    assert [one.name for one in found.people] == ["anna", "boris"]
    assert (found.serial, found.expires_ms - found.issued_ms) == (1, 90 * DAY_MS)


def test_the_next_one_says_what_changes_and_has_the_next_number(safe: Safe, tmp_path: Path) -> None:
    safe.sign(people(safe, "anna", "boris"))
    (tmp_path / "people.toml.signed").rename(tmp_path / "one.signed")
    signed, out, _ = safe.sign(people(safe, "anna", "carla"), "--previous", str(tmp_path / "one.signed"))
    assert glance(signed).serial == 2
    assert out.startswith("- boris: may approve nothing any more\n+ carla: dba on every host\n")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            'site = "main"\n[[person]]\nname = "a"\nkey = "ab"\nroles = ["dba"]\n',
            "people.toml:4: person[0].key: got",
        ),
        ('site = "main"\n[[person]]\nname = "a"\nroles = ["dba"]\n', "person[0].key: got nothing"),
        ('site = "main"\n[[person]]\nname = "a"\nkey = "KEY"\nroles = []\n', "person[0].roles: got nothing"),
        (
            'site = "main"\n[[person]]\nname = "a"\nkey = "KEY"\nroles = ["dba"]\nscopes = ["team"]\n',
            "wanted labels bound at enrolment",
        ),
        (
            (
                'site = "main"\n[[person]]\nname = "a"\nkey = "KEY"\nroles = ["dba"]\n'
                '[[person]]\nname = "b"\nkey = "KEY"\nroles = ["dba"]\n'
            ),
            "person[1].key: got",
        ),
    ],
)
def test_a_mistake_is_told_with_its_line_and_nothing_is_signed(safe: Safe, text: str, told: str) -> None:
    _, _, err = safe.sign(text.replace("KEY", safe.person("a")), code=2)
    assert told in err


class Hosts:
    """What hosts said, and what they were sent."""

    def __init__(self) -> None:
        self.said: dict[str, Bearer] = {}
        self.away: set[str] = set()
        self.sent: list[tuple[str, Order]] = []

    def add(
        self, name: str, serial: int = 0, keys: tuple[str, ...] = ("k",), runner: bool = True, asks: int = 0
    ) -> None:
        action = Action(name="a", argv=("/bin/true",), effect=Effect.ONCE, needs=Needs(asks, "dba"))
        inventory = Inventory(
            version="v",
            runner=runner,
            ledger="l",
            epoch=1,
            roster_serial=serial,
            roster_keys=keys,
            actions=(action,),
        )
        self.said[f"id-{name}"] = Bearer(name, {"team": name[:2]}, inventory, 1)

    def send(self, agent_id: str, order: Order) -> bool:
        if agent_id in self.away:
            return False
        self.sent.append((agent_id, order))
        return True


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that is migrated, which takes longer than these tests."""
    place = tmp_path_factory.mktemp("empty")
    Store.open(place, "main").close()
    return place / "control.db"


@pytest.fixture
def store(tmp_path: Path, empty: Path) -> Iterator[Store]:
    (tmp_path / "store").mkdir()
    shutil.copy(empty, tmp_path / "store")
    with Store.open(tmp_path / "store", "main") as made:
        yield made


@pytest.fixture
def hosts() -> Hosts:
    return Hosts()


@pytest.fixture
def desk(store: Store, hosts: Hosts, tmp_path: Path) -> RosterDesk:
    return RosterDesk(store, SystemClock(), tmp_path, tmp_path.stat().st_uid, lambda: hosts.said, hosts.send)


async def test_a_published_roster_goes_to_hosts_that_are_behind_and_is_in_the_audit(
    safe: Safe, desk: RosterDesk, hosts: Hosts, store: Store, tmp_path: Path
) -> None:
    hosts.add("db1")
    hosts.add("db2", serial=1)
    hosts.add("web1", keys=())
    hosts.add("old", runner=False)
    hosts.add("db3")
    hosts.away.add("id-db3")
    signed, _, _ = safe.sign(people(safe, "anna"))
    assert (await desk.publish(signed, OPS)).sent == 2
    assert {agent for agent, _ in hosts.sent} == {"id-db1", "id-web1"}
    assert hosts.sent[0][1] == RosterCopy(signed)
    assert desk.hand_out() == 0, "who was just sent it is left alone"
    hosts.away.clear()
    assert desk.hand_out() == 1, "and who comes back is not"
    behind = await desk.behind(EVERYTHING)
    assert [(one.name, one.why) for one in behind.hosts] == [
        ("db1", "it has none yet"),
        ("db3", "it has none yet"),
        ("web1", "no roster.pub there: nothing that is protected runs"),
    ]
    scoped = View((parse_scope("team=we"),))
    assert [one.name for one in (await desk.behind(scoped)).hosts] == ["web1"]
    rows = Audit(store, SystemClock()).newest(Filter(), 5)
    assert ("roster.publish", "roster/1", "ops") in {(row.action, row.target, row.actor) for row in rows}
    again = RosterDesk(store, SystemClock(), tmp_path, 0, lambda: hosts.said, hosts.send)
    assert again.current() == desk.current(), "a restart carries the same"
    registry = CollectorRegistry(auto_describe=False)
    registry.register(RosterMetrics(desk))
    assert registry.get_sample_value("watchbill_roster_hosts_behind") == 3


async def test_what_hosts_would_refuse_is_refused_with_the_reason(
    safe: Safe, desk: RosterDesk, tmp_path: Path, capsys: Any
) -> None:
    newer, _, _ = safe.sign(people(safe, "anna"), "--serial", "7")
    older, _, _ = safe.sign(people(safe, "anna", "boris"), "--serial", "7")
    other, _, _ = safe.sign(people(safe, "anna").replace("main", "elsewhere"), "--serial", "8")
    await desk.publish(newer, OPS)
    for signed, why in ((older, "wanted more than the newest roster's 7"), (other, "the site 'elsewhere'")):
        with pytest.raises(Refused, match=why):
            await desk.publish(signed, OPS)
    (tmp_path / "roster.pub").write_text(safe.public_line)
    thief = Safe(tmp_path, capsys, "thief")
    forged, _, _ = thief.sign(people(safe, "thief"), "--serial", "9")
    with pytest.raises(Refused, match="signed by none of the 1 keys"):
        await desk.publish(forged, OPS)
    with pytest.raises(RosterRefused):
        open_roster(read_roster_keys(tmp_path, os.getuid()), forged)


def test_keys_are_made_once_and_are_nobody_elses(safe: Safe, at_home: Path, capsys: Any) -> None:
    assert run(["roster", "key", "--name", "anna", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    place = Path(made["file"])
    assert place.stat().st_mode & 0o777 == 0o600
    assert made["key"] not in place.read_text(), "the public half is not kept beside the secret one"
    assert run(["roster", "key", "--name", "anna"]) == 2
    assert run(["roster", "key", "--roster", str(safe.key)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_roster_is_shown_from_its_file(safe: Safe, tmp_path: Path, capsys: Any) -> None:
    safe.sign(people(safe, "anna"))
    assert run(["roster", "show", str(tmp_path / "people.toml.signed")]) == 0
    out = capsys.readouterr().out
    assert "Roster 1 of site main" in out
    assert "dba on every host" in out
    (tmp_path / "bad").write_text("nonsense!")
    assert run(["roster", "show", str(tmp_path / "bad")]) == 2


async def test_who_is_disabled_and_still_on_it_is_told_wherever_one_looks(
    safe: Safe, store: Store, hosts: Hosts, tmp_path: Path
) -> None:
    disabled: set[str] = set()
    desk = RosterDesk(
        store,
        SystemClock(),
        tmp_path,
        os.geteuid(),
        lambda: hosts.said,
        hosts.send,
        lambda: frozenset(disabled),
    )
    disabled.add("boris")
    assert desk.still_there() == (), "there is none"
    signed, _, _ = safe.sign(people(safe, "anna", "Boris"))
    await desk.publish(signed, OPS)
    assert (await desk.roster()).disabled == ("Boris",)


async def test_roles_are_counted_where_the_fewest_may_and_needed_where_most_is_asked_for(
    safe: Safe, store: Store, hosts: Hosts, tmp_path: Path
) -> None:
    clock = ManualClock(wall_ms=SystemClock().wall_ms())
    disabled: set[str] = set()
    desk = RosterDesk(
        store,
        clock,
        tmp_path,
        os.geteuid(),
        lambda: hosts.said,
        hosts.send,
        lambda: frozenset(disabled),
    )
    registry = CollectorRegistry(auto_describe=False)
    registry.register(RosterMetrics(desk))

    def told(role: str) -> tuple[float | None, float | None]:
        labels = {"role": role}
        return (
            registry.get_sample_value("watchbill_roster_role_people", labels),
            registry.get_sample_value("watchbill_roster_role_needed", labels),
        )

    hosts.add("db1", asks=2)
    assert told("dba") == (0, 2), "without a roster nobody can agree to what is protected already"
    text = (
        people(safe, "anna", "boris") + people(safe, "carla", more='scopes = ["team=we"]\n').split("\n", 1)[1]
    )
    signed, _, _ = safe.sign(text.replace('roles = ["dba"]', 'roles = ["dba", "net"]'))
    await desk.publish(signed, OPS)
    assert told("dba") == (2, 2), "carla may not, on db1"
    assert told("net") == (3, 0)
    hosts.add("web1", asks=3)
    disabled.add("boris")
    assert told("dba") == (2, 2), "of a minute ago"
    clock.advance(61)
    assert told("dba") == (1, 3)
    clock.advance(91 * 86_400)
    assert told("dba") == (0, 3), "a roster that has ended names nobody"
