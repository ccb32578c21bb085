"""Services: read strictly as a whole; what belongs to what is decided by labels that a host cannot choose."""
# ruff: noqa: E501  # Tables read best with a line for each case.

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from watchbill.errors import ConfigError
from watchbill_collector.servicebook import Belonging, ServiceBook, read_services

SHOP = """\
[[service]]
name = "shop"
owner = "team-web"
hosts = 'role="web",site=~"b.*"'
depends = ["db", "mail"]
objectives = { availability = "99.9%", rto = "1h", rpo = "15m" }

[[service]]
name = "mail"
checks = ["smtp"]
depends = ["net"]
"""
DB = """\
[[service]]
name = "db"
hosts = '{role="db"}'
backups = ["db-nightly"]
depends = ["net"]

[[service]]
name = "net"
hosts = 'role=~"db|router"'
"""


def book(folder: Path, **files: str) -> ServiceBook:
    (folder / "services.d").mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / "services.d" / f"{name}.toml").write_text(text)
    return read_services(folder)


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        book(folder, a=text)
    return [str(problem).removeprefix(f"{folder}/services.d/") for problem in caught.value.problems]


def test_a_service_names_a_channel_that_there_is(tmp_path: Path) -> None:
    book(tmp_path, a='[[service]]\nname = "shop"\nchannel = "ops"\n')
    assert read_services(tmp_path, ["mail", "ops"]).named("shop") is not None
    for there, said in ((["mail", "pager"], "mail, pager"), ([], "there is none")):
        with pytest.raises(ConfigError) as caught:
            read_services(tmp_path, there)
        assert [str(each) for each in caught.value.problems] == [
            f'{tmp_path}/services.d/a.toml:3: service[0].channel: got "ops", wanted the name of a channel: {said}'
        ]


def test_files_are_read_in_their_order(tmp_path: Path) -> None:
    read = book(tmp_path, b=SHOP, a=DB)
    assert [service.name for service in read.services] == ["db", "net", "shop", "mail"]
    shop = read.named("shop")
    assert shop is not None
    assert shop.owner == "team-web"
    assert shop.objectives.availability is not None
    assert shop.objectives.availability.fraction == pytest.approx(0.999)
    assert shop.objectives.rto is not None
    assert shop.objectives.rpo is not None
    assert (shop.objectives.rto.ms, shop.objectives.rpo.ms) == (3_600_000, 900_000)


def test_no_files_are_no_services(tmp_path: Path) -> None:
    assert read_services(tmp_path).services == ()


def test_dependencies_reach_through_others_and_nearest_first(tmp_path: Path) -> None:
    read = book(tmp_path, a=DB, b=SHOP)
    assert read.dependencies("shop") == ("db", "mail", "net")
    assert read.dependants("net") == ("db", "mail", "shop")
    assert read.dependencies("net") == ()


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        ({"role": "web", "site": "b1"}, "shop"),
        ({"role": "web", "site": "c1"}, None),
        ({"role": "db"}, "db"),
        ({"role": "router"}, "net"),
        ({}, None),
        ({"check": "smtp", "role": "db"}, "mail"),
        ({"backup": "db-nightly", "role": "web", "site": "b1"}, "db"),
    ],
)
def test_names_decide_before_selectors_and_the_first_selector_wins(
    tmp_path: Path, labels: dict[str, str], name: str | None
) -> None:
    found = book(tmp_path, a=DB, b=SHOP).of(labels)
    assert (found.name if found else None) == name


def test_a_host_may_touch_several(tmp_path: Path) -> None:
    read = book(tmp_path, a=DB, b=SHOP)
    assert [service.name for service in read.touched({"role": "db", "check": "smtp"})] == [
        "mail",
        "db",
        "net",
    ]


class Bound:
    """What was bound to two hosts."""

    generation = 0

    def bound(self, instance: str) -> Mapping[str, str] | None:
        return {"db1": {"role": "db"}, "plain": {}}.get(instance)

    def hosts(self) -> Sequence[tuple[str, Mapping[str, str]]]:
        return ()


def test_a_host_cannot_choose_its_service(tmp_path: Path) -> None:
    read = book(tmp_path, a=DB, b=SHOP)
    belonging = Belonging(lambda: read, Bound())
    found = belonging.of({"instance": "plain", "role": "db"})
    assert found is None
    bound = belonging.of({"instance": "db1", "role": "web", "site": "b1"})
    assert bound is not None
    assert bound.name == "db"
    # What is about no host of ours has nothing but its own labels.
    own = belonging.of({"role": "db"})
    assert own is not None
    assert own.name == "db"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[service]]\nowner = 'x'", "a.toml:1: service[0].name: got nothing, wanted text"),
        ("[[service]]\nname = 'a b'", "a.toml:2: service[0].name: got \"a b\", wanted 1 to 128 letters"),
        ("[[service]]\nname = 'a'\nownr = 'x'", "a.toml:3: service[0].ownr: got an unknown key"),
        ("[[service]]\nname = 'a'\nhosts = 'role='", 'a.toml:3: service[0].hosts: got "role=", wanted PromQL matchers'),
        ("[[service]]\nname = 'a'\nhosts = ''", "a.toml:3: service[0].hosts: got no matcher, wanted matchers"),
        ("[[service]]\nname = 'a'\nhosts = 'role=~\"(\"'", "a.toml:3: service[0].hosts: got invalid regular expression"),
        ("[[service]]\nname = 'a'\n[[service]]\nname = 'a'", 'a.toml:4: service[1].name: got "a" again'),
        ("[[service]]\nname = 'a'\ndepends = ['b']", 'a.toml:3: service[0].depends: got "b", wanted the name of a service'),
        ("[[service]]\nname = 'a'\ndepends = ['a']", 'a.toml:3: service[0].depends: got "a", the service itself'),
        ("[[service]]\nname = 'a'\nobjectives = { availability = '99.9' }", 'availability: got "99.9", wanted a share of the time'),
        ("[[service]]\nname = 'a'\nobjectives = { rto = 5 }", "objectives.rto: got 5, wanted a duration"),
        ("[[services]]\nname = 'a'", "a.toml:1: services: got an unknown key"),
        ("[[service", "a.toml:1:"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    assert any(told in problem for problem in problems(tmp_path, text)), problems(tmp_path, text)


def test_every_circle_is_named_from_its_first_service(tmp_path: Path) -> None:
    text = "".join(
        f"[[service]]\nname = '{name}'\ndepends = {below}\n"
        for name, below in {
            "a": ["b"],
            "b": ["c"],
            "c": ["a", "d"],
            "d": ["e"],
            "e": ["d"],
            "f": ["a"],
        }.items()
    )
    found = problems(tmp_path, text)
    assert sorted(problem.split("got ")[1] for problem in found) == [
        "a circle: a -> b -> c -> a, wanted no circle",
        "a circle: d -> e -> d, wanted no circle",
    ]


def test_many_services_are_read_and_too_many_are_refused(tmp_path: Path) -> None:
    text = "".join(
        f"[[service]]\nname = 's{n}'\ndepends = [{repr(f's{n - 1}') if n else ''}]\n" for n in range(2_001)
    )
    assert any("2001 services, wanted at most 2000" in problem for problem in problems(tmp_path, text))


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = "[[service]]\nname = 'a'\nx = 1\n[[service]]\nname = ''\n[[service]]\nname = 'c'\nhosts = 5\n"
    assert len(problems(tmp_path, text)) == 3
