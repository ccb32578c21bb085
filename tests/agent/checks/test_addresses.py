"""Names become addresses without anybody waiting for somebody else's name."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from watchbill_agent.checks import addresses
from watchbill_agent.checks.addresses import THREADS_MAX, Hosts, Place, Resolver, literal
from watchbill_agent.checks.check import Failed, Verdict
from watchbill_agent.checks.probing import NetOptions

ANY = NetOptions()
HERE = Place(2, "192.0.2.1")
THERE = Place(10, "2001:db8::1")


class Hanging:
    """A resolver that answers no name before it is released."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.begun = threading.Semaphore(0)
        self.asked: list[str] = []

    def all_hang(self) -> None:
        for _ in range(THREADS_MAX):
            assert self.begun.acquire(timeout=30)

    def __call__(self, host: str) -> list[Place]:
        self.asked.append(host)
        self.begun.release()
        self.release.wait(30)
        return [HERE]


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    made = Hanging()
    yield made
    made.release.set()


async def test_a_resolver_that_hangs_holds_up_no_address_and_no_name_of_the_hosts_file(
    hanging: Hanging, tmp_path: Path
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("192.0.2.7 known alias # a comment\n2001:db8::7 known\n")
    resolver = Resolver(hanging, Hosts(hosts, tmp_path / "none"))
    stuck = [asyncio.create_task(resolver.places(f"n{number}.example", ANY)) for number in range(50)]
    await asyncio.to_thread(hanging.all_hang)
    assert await resolver.places("192.0.2.9", ANY) == [Place(2, "192.0.2.9")]
    assert await resolver.places("ALIAS.", ANY) == [Place(2, "192.0.2.7")]
    assert await resolver.places("known", NetOptions(preferred_ip_protocol="ip6")) == [
        Place(10, "2001:db8::7"),
        Place(2, "192.0.2.7"),
    ]
    assert len(hanging.asked) == THREADS_MAX
    assert sum(thread.name == "resolver" for thread in threading.enumerate()) >= THREADS_MAX
    hanging.release.set()
    assert all(places == [HERE] for places in await asyncio.gather(*stuck))
    assert len(hanging.asked) == 50


async def test_who_asks_for_the_same_name_shares_one_thread_and_who_left_is_forgotten(
    hanging: Hanging,
) -> None:
    resolver = Resolver(hanging)
    first = [asyncio.create_task(resolver.places(f"n{number}.example", ANY)) for number in range(THREADS_MAX)]
    await asyncio.to_thread(hanging.all_hang)
    same = [asyncio.create_task(resolver.places("n0.example", ANY)) for _ in range(20)]
    left = [asyncio.create_task(resolver.places(f"left{number}.example", ANY)) for number in range(5)]
    await asyncio.sleep(0)
    for task in (*left, *same[:10]):
        task.cancel()
    await asyncio.gather(*left, *same[:10], return_exceptions=True)
    hanging.release.set()
    assert await asyncio.gather(*first, *same[10:]) == [[HERE]] * (THREADS_MAX + 10)
    assert await resolver.places("later.example", ANY) == [HERE]
    assert not any(name.startswith("left") for name in hanging.asked)
    assert resolver.counts.forgotten == 5


async def test_too_many_names_in_line_are_refused(hanging: Hanging, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "WAITING_MAX", 3)
    resolver = Resolver(hanging)
    waiting = [asyncio.create_task(resolver.places(f"n{number}.example", ANY)) for number in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Failed, match="wait for the resolver") as caught:
        await resolver.places("more.example", ANY)
    assert (caught.value.reason, caught.value.verdict) == ("resolver-busy", Verdict.UNKNOWN)
    assert resolver.counts.refused == 1
    hanging.release.set()
    await asyncio.gather(*waiting)


@pytest.mark.parametrize(
    ("options", "places"),
    [
        (ANY, [THERE, HERE]),
        (NetOptions(preferred_ip_protocol="ip4"), [HERE, THERE]),
        (NetOptions(preferred_ip_protocol="ip6", ip_protocol_fallback=False), [THERE]),
    ],
)
async def test_the_preferred_protocol_comes_first(options: NetOptions, places: list[Place]) -> None:
    assert await Resolver(lambda host: [THERE, HERE, THERE]).places("a.example", options) == places


async def test_no_address_of_the_only_protocol_is_a_name_unknown() -> None:
    only = NetOptions(preferred_ip_protocol="ip6", ip_protocol_fallback=False)
    with pytest.raises(Failed) as caught:
        await Resolver(lambda host: [HERE]).places("a.example", only)
    assert (caught.value.reason, caught.value.verdict) == ("name-unknown", Verdict.CRITICAL)


@pytest.mark.parametrize("name", ["nothing.invalid", "a" * 300, "a..b", "\udcff", ""])
async def test_a_name_that_is_none_is_unknown_or_could_not_be_asked(name: str) -> None:
    with pytest.raises(Failed) as caught:
        await Resolver().places(name, ANY)
    assert caught.value.reason in ("name-unknown", "resolve-failed")


async def test_the_hosts_file_is_read_anew_and_only_where_it_comes_first(tmp_path: Path) -> None:
    hosts, nsswitch = tmp_path / "hosts", tmp_path / "nsswitch.conf"
    hosts.write_text("192.0.2.1 a\n")
    found = Hosts(hosts, nsswitch)
    assert found.find("a") == [HERE]
    hosts.write_text("192.0.2.2 a\nnonsense a\n")
    assert found.find("a") == [Place(2, "192.0.2.2")]
    nsswitch.write_text("passwd: files\nhosts: dns files\n")
    assert found.find("a") == []


def test_an_address_with_its_zone_is_one() -> None:
    assert literal("fe80::1%lo") == (Place(10, "fe80::1", 1),)
    assert literal("::1") == (Place(10, "::1"),)
    assert literal("localhost") == ()
