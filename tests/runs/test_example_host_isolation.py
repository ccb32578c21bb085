"""The shipped isolation in a real network: the collector still hears the host, nobody else does, and it opens again."""

import contextlib
import ctypes
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.agent.runner.conftest import ANNA, BORIS, Host, ended, said
from tests.agent.runner.conftest import host as host  # noqa: PLC0414 - A fixture of theirs.
from tests.chaos.cable import Cable
from tests.runs.conftest import House
from watchbill.actions.definition import Action, Value
from watchbill.actions.files import load_allowed
from watchbill.actions.order import Command, Refusal, RosterCopy
from watchbill.actions.outcomes import Outcome, Refused
from watchbill.actions.roster import Person
from watchbill.actions.signing import public_key
from watchbill_collector.runbooks.parameters import judge_parameters
from watchbill_collector.runbooks.planning import plan
from watchbill_collector.services.run_facts import RunFacts
from watchbill_collector.services.run_twin import HostTwin, Ran

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
PROGRAM = EXAMPLES / "actions" / "bin" / "isolation.py"
RULES = EXAMPLES / "actions" / "isolation.sample.nft"
CLONE_NEWNET = 0x40000000
PATIENCE_S = 0.1
OPENS_S = 20.0
COMMAND_S = 20

pytestmark = pytest.mark.real("nft", "ip")


class Street:
    """A host at one end of a cable; at the other a collector, an operator and the world, each at its own address."""

    def __init__(self, cable: Cable, root: Path) -> None:
        self.cable, self.root = cable, root
        _, *numbers = (int(one) for one in cable.here.split("."))
        net6 = "fd57:" + ":".join(f"{one:x}" for one in numbers) + "::"
        self.collector, self.collector6 = cable.here, f"{net6}1"
        self.world, self.world6 = f"203.0.113.{numbers[-1]}", f"{net6}2"
        self.operator = f"203.0.113.{numbers[-1] + 1}"
        for one in (self.world, self.operator):
            ip("address", "add", f"{one}/32", "dev", f"{cable.namespace}a")
        for one in (self.collector6, self.world6):
            ip("address", "add", f"{one}/64", "dev", f"{cable.namespace}a", "nodad")
        self.at_its_end("address", "add", f"{net6}3/64", "dev", f"{cable.namespace}b", "nodad")
        self.at_its_end("route", "add", "default", "via", cable.here)
        peers = (self.collector, self.collector6, self.world, self.world6)
        self.listening = {one: listen(one) for one in peers}
        with self.at_host():
            self.door = listen(cable.there)
        self.rules = root / "isolation.nft"
        self.write_rules()

    def close(self) -> None:
        for one in (*self.listening.values(), self.door):
            one.close()

    def at_its_end(self, *words: str) -> None:
        """`ip` at the host's end."""
        ip("-n", self.cable.namespace, *words)

    def write_rules(self, *changes: tuple[str, str]) -> None:
        """The shipped rules, with what a site changes in them."""
        text = RULES.read_text()
        for old, new in (
            ("{ 7443, 7444 }", f"{{ {self.port(self.collector)}, {self.port(self.collector6)} }}"),
            ("# elements = { 2001:db8::10 }", f"elements = {{ {self.collector6} }}"),
            ("{ 22 }", f"{{ {self.door.getsockname()[1]} }}"),
            ("# elements = { 192.0.2.20 }", f"elements = {{ {self.operator} }}"),
            ("192.0.2.10", self.collector),
            *changes,
        ):
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        self.rules.write_text(text)

    def allowed(self, program: str) -> str:
        """The shipped actions, with this street's paths and addresses."""
        text = (EXAMPLES / "actions" / "isolation.toml").read_text()
        for old, new in (
            ("/etc/watchbill/isolation.nft", str(self.rules)),
            ("/usr/local/lib/watchbill/actions/isolation.py", program),
            ('"192.0.2.1", "53", "3"', f'"{self.world}", "{self.port(self.world)}", "{PATIENCE_S}"'),
        ):
            assert old in text
            text = text.replace(old, new)
        return text

    def port(self, address: str) -> int:
        port: int = self.listening[address].getsockname()[1]
        return port

    @contextlib.contextmanager
    def at_host(self) -> Iterator[None]:
        """This thread, and what it starts, is on the host's network."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.cable.namespace}", os.O_RDONLY)
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            assert libc.setns(there, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
            try:
                yield
            finally:
                assert libc.setns(home, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        finally:
            os.close(home)
            os.close(there)

    def reaches(self, address: str) -> bool:
        """Whether the host does."""
        with self.at_host():
            return answers(address, self.port(address))

    @contextlib.contextmanager
    def connected(self, address: str) -> Iterator[tuple[socket.socket, socket.socket]]:
        """Both ends of a connection that the host has begun."""
        with self.at_host():
            client = socket.create_connection((address, self.port(address)))
        with client:
            while True:
                end, peer = self.listening[address].accept()
                with end:
                    # Those before it were only to see whether anybody answers.
                    if peer == client.getsockname():
                        yield client, end
                        return

    def seen(self) -> dict[str, bool]:
        """Whom the host reaches, and who reaches the host."""
        door = self.cable.there, self.door.getsockname()[1]
        return {
            "collector": self.reaches(self.collector),
            "collector6": self.reaches(self.collector6),
            "world": self.reaches(self.world),
            "world6": self.reaches(self.world6),
            "from operator": answers(*door, source=self.operator),
            "from world": answers(*door, source=self.world),
        }


OPEN = dict.fromkeys(("collector", "collector6", "world", "world6", "from operator", "from world"), True)
CUT = OPEN | {"world": False, "world6": False, "from world": False}


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=COMMAND_S, check=False)
    assert done.returncode == 0, (words, done.stderr)


def listen(address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, 0), family=family)


def answers(address: str, port: int, source: str = "") -> bool:
    try:
        from_ = (source, 0) if source else None
        socket.create_connection((address, port), timeout=PATIENCE_S, source_address=from_).close()
    except OSError:
        return False
    return True


def passes(client: socket.socket, end: socket.socket) -> bool:
    """Whether what one end says arrives at the other."""
    end.sendall(b"still there?")
    client.settimeout(PATIENCE_S)
    try:
        return client.recv(20) == b"still there?"
    except TimeoutError:
        return False


@pytest.fixture
def street(tmp_path: Path) -> Iterator[Street]:
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("needs IPv6")
    with contextlib.ExitStack() as stack:
        cable = Cable()
        stack.callback(cable.close)
        yield stack.enter_context(contextlib.closing(Street(cable, tmp_path)))


# ---------------------------------------------------------------- by the runner of a real host


def test_the_runner_cuts_a_host_off_when_two_have_signed_and_open_connections_end_too(
    street: Street, host: Host
) -> None:
    host.allow(street.allowed(str(host.script("isolation.py", PROGRAM.read_text()))))
    host.install_roster_key()
    runner = host.runner()
    people = tuple(
        Person(name=name, key=public_key(seed), roles=("ops",))
        for name, seed in (("anna", ANNA), ("boris", BORIS))
    )
    runner.order(host.signed(RosterCopy(host.roster(people=people))))

    def order(name: str, **arguments: Value) -> tuple[Command, str]:
        asked = host.command(f"isolation.{name}", step=name, arguments=arguments)
        return asked, host.key(asked)

    def go(name: str, **arguments: Value) -> str:
        asked, key = order(name, **arguments)
        with street.at_host():
            runner.order(host.signed(host.agreed(asked, "anna", "boris")))
            found = ended(runner, key)
        assert found.outcome is Outcome.OK, found
        return found.output

    asked, _ = order("on")
    with street.at_host():
        runner.order(host.signed(host.agreed(replace(asked, attempt=2), "anna")))
    refused = [one for one in said(runner.waiting()) if isinstance(one, Refused)]
    assert [one.reason for one in refused] == [Refusal.APPROVALS]
    assert street.seen() == OPEN

    with street.connected(street.collector) as to_collector, street.connected(street.world) as to_world:
        go("on")
        # Neighbours have to be found anew.
        street.at_its_end("neigh", "flush", "all")
        assert street.seen() == CUT
        assert passes(*to_collector)
        assert not passes(*to_world)

    go("keep", time="4h")
    look = go("look")
    assert '"isolated": true' in look
    assert '"reached": false' in look
    go("off")
    assert street.seen() == OPEN


# ---------------------------------------------------------------- by the runbooks


class Hall:
    """A collector with the shipped runbooks, and the host's twin: what it runs, runs on the real network."""

    def __init__(self, house: House, street: Street) -> None:
        self.house, self.street = house, street
        place = street.root / "actions.d"
        place.mkdir()
        (place / "isolation.toml").write_text(street.allowed(str(PROGRAM)))
        (place / "isolation.toml").chmod(0o644)
        self.twin = house.host("web1")
        for action in load_allowed(street.root, os.geteuid()).actions.values():
            self._allow(self.twin, action)
        for name in ("host-isolate", "host-release"):
            house.runbook((EXAMPLES / "runbooks" / f"{name}.yaml").read_text())
        house.staff("ops")
        house.facts = Now(self)  # type: ignore[assignment]

    def _allow(self, twin: HostTwin, action: Action) -> None:
        def program(given: Mapping[str, Value]) -> Ran:
            argv = list(action.command_line(action.bind(given, twin.name)))
            if argv[0] == str(PROGRAM):
                argv[:1] = [sys.executable, "-I", str(PROGRAM)]
            with self.street.at_host():
                done = subprocess.run(argv, capture_output=True, text=True, timeout=COMMAND_S, check=False)
            # What it has to say arrives only when it still reaches the collector.
            self.listen()
            return Ran(done.returncode, done.stdout)

        twin.allow(action, program)

    def listen(self) -> bool:
        """Whether the host is heard now."""
        self.twin.connected = self.street.reaches(self.street.collector)
        return self.twin.connected

    def facts(self) -> RunFacts:
        """Of this moment."""
        known = {"up": self.twin.connected, "connected": self.twin.connected}
        return RunFacts(lambda _: None, lambda *_: None, lambda *_: None, lambda _: None, lambda _: known)

    async def go(self, name: str, seconds: float = 0, time: str = "4h") -> str:
        """A run, for so long after two have agreed."""
        given = {"host": "web1"} | ({"time": time} if name == "host-isolate" else {})
        run_id = await self.house.begin(name, False, "ada", 0, **given)
        await self.house.settle()
        await self.house.agree(run_id, "consent", "anna", "boris")
        await self.house.pass_s(seconds)
        return run_id


class Now:
    """The facts of whichever moment it is."""

    def __init__(self, hall: Hall) -> None:
        self._hall = hall

    def __getattr__(self, name: str) -> object:
        return getattr(self._hall.facts(), name)


@pytest.fixture
def hall(house: House, street: Street) -> Hall:
    return Hall(house, street)


def test_the_plan_shows_the_exact_rules_and_that_undoing_is_agreed_to_with_it(hall: Hall) -> None:
    runbook = hall.house.in_force["host-isolate"]
    given = judge_parameters(runbook, {"host": "web1"})
    found = plan(runbook, given, hall.house.world().fleet, hall.facts())
    assert found.problems == ()
    rows = {(row.step, row.kind): row for row in found.rows}
    assert rows["isolate", "do"].argv == ("/usr/sbin/nft", "-f", str(hall.street.rules))
    assert rows["keep", "do"].argv[2:] == ("4h", ", ipv6 timeout", "4h", "}")
    assert [row.step for row in found.looks] == ["rules", "before"]
    assert [one.action for one in found.covered["consent"]] == [
        "isolation.on",
        "isolation.off",
        "isolation.keep",
    ]
    with hall.street.at_host():
        checked = subprocess.run(rows["isolate", "do"].plan_argv, timeout=COMMAND_S, check=False)
    assert checked.returncode == 0
    assert hall.street.seen() == OPEN, "a plan changes nothing"


async def test_the_runbook_isolates_a_host_that_goes_on_being_heard_and_the_other_takes_it_back(
    hall: Hall,
) -> None:
    run_id = await hall.go("host-isolate", 70, "12h")
    assert hall.house.state(run_id) == "succeeded"
    assert hall.street.seen() == CUT
    run_id = await hall.go("host-release")
    assert hall.house.state(run_id) == "succeeded"
    assert hall.street.seen() == OPEN


async def test_rules_that_do_not_cut_are_undone(hall: Hall) -> None:
    street = hall.street
    port, another = street.port(street.collector), street.port(street.world)
    street.write_rules(
        (street.collector, f"{street.collector}, {street.world}"),
        (f"{{ {port}, ", f"{{ {port}, {another}, "),
    )
    run_id = await hall.go("host-isolate", 70)
    assert hall.house.state(run_id) == "undone"
    assert hall.twin.ran["isolation.off"] == 1


async def test_a_host_that_is_not_heard_any_more_opens_by_itself_and_the_run_is_undone(hall: Hall) -> None:
    street = hall.street
    street.write_rules((street.collector, "192.0.2.99"), ("timeout 10m", "timeout 1s"))
    run_id = await hall.go("host-isolate", 70)
    assert not hall.twin.connected, "it has locked itself out"
    until_s = time.monotonic() + OPENS_S
    while not hall.listen() and time.monotonic() < until_s:
        pass
    await hall.house.pass_s(240)
    assert hall.twin.ran["isolation.on"] == 1
    assert hall.house.state(run_id) == "undone"
    assert street.seen() == OPEN


async def test_an_undo_that_could_not_be_sent_holds_and_is_sent_when_somebody_says_retry(hall: Hall) -> None:
    run_id = await hall.go("host-isolate")
    hall.twin.connected = False
    await hall.house.pass_s(400)
    assert hall.house.state(run_id) == "held"
    assert "not undone: isolation.off on web1" in hall.house.run(run_id).detail
    hall.twin.connected = True
    await hall.house.say(run_id, "retry", "isolate")
    assert hall.house.state(run_id) == "undone"
    assert hall.street.seen() == OPEN
