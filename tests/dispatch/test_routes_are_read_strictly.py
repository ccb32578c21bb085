"""What collector.toml says of routes and windows: every mistake with its file, its line and what is wanted."""

from pathlib import Path
from typing import Any

import pytest

from watchbill.config import Homes
from watchbill.errors import ConfigError
from watchbill_collector.config import load_config
from watchbill_collector.configured import answered_names, external_url
from watchbill_collector.dispatch.options import read_routing
from watchbill_collector.dispatch.routing import destinations
from watchbill_collector.dispatch.values import Severity, Standing, Way
from watchbill_collector.notifiers.configured import without_digest

CHANNEL = '[[channel]]\nname = "ops"\nkind = "webhook"\nurl = "https://hooks.example/x"\n'
PAGER = '[[channel]]\nname = "pager"\nkind = "pagerduty"\nrouting_key_file = "/k"\n'
PEER = '[[channel]]\nname = "am"\nkind = "alertmanager"\nurls = ["http://127.0.0.1:9093"]\n'


def problems(tmp_path: Path, text: str) -> str:
    homes = Homes.resolve("collector", tmp_path)
    homes.etc.mkdir(parents=True)
    (homes.etc / "collector.toml").write_text(CHANNEL + text)
    with pytest.raises(ConfigError) as caught:
        load_config(homes)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (
            '[[route]]\nchannel = "opps"\n',
            6,
            'route[0].channel: got "opps", wanted the name of a channel: ops',
        ),
        ('[[route]]\nmatch = "severity"\nchannel = "ops"\n', 6, "PromQL matchers"),
        ('[[route]]\nmatch = \'a=~"("\'\nchannel = "ops"\n', 6, "route[0].match: got a=~: "),
        ('[[route]]\nchannel = "ops"\nway = "mail"\n', 7, "route[0].way"),
        ('[[route]]\nchannel = "ops"\nrepeat = 30\n', 7, "a duration with its unit"),
        ('[[route]]\nchannel = "ops"\nchanel = "x"\n', 7, "did you mean channel?"),
        ('[[route]]\nmatch = "a=\\"b\\""\n', 5, "a channel, or way"),
        ('[[route]]\nchannel = "ops"\nmute = ["night"]\n', 7, 'got "night", wanted the name of a window'),
        ('[[maintenance]]\nname = "n"\ncron = "61 * * * *"\nduration = "1h"\n', 7, "minute: '61'"),
        ('[[maintenance]]\nname = "n"\ncron = "1 * * * *"\n', 5, "maintenance[0].duration: got nothing"),
        (
            '[[maintenance]]\nname = "n"\ncron = "1 * * * *"\nduration = "1h"\nzone = "Mars"\n',
            9,
            "a time zone",
        ),
        ('[digest]\nat = "25:00"\n', 6, "a time of day"),
        (PAGER + '[[route]]\nchannel = "pager"\nway = "digest"\n', 11, 'way: got "digest" to "pager"'),
        (PAGER + '[[route]]\nchannels = ["ops", "pager"]\nway = "digest"\n', 11, "a channel that takes"),
        (PEER + '[[route]]\nchannel = "am"\nway = "digest"\n', 11, 'way: got "digest" to "am"'),
        ('[[route]]\nway = "page"\n', 5, 'route[0].channel: got nothing, wanted a channel, or way = "none"'),
        ("[[route]]\nchannels = []\n", 5, "a channel, or way"),
        ('[watchdog]\nurl = "https://user:secret@hc.example/"\n', 6, "without user and password"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, line: int, says: str) -> None:
    found = problems(tmp_path, text)
    assert f"collector.toml:{line}:" in found
    assert says in found
    assert "secret" not in found.replace("***", "") or "secret@" in text


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    found = problems(tmp_path, '[[route]]\nchannel = "a"\n[[route]]\nchannel = "b"\n')
    assert len(found.splitlines()) == 2


@pytest.mark.parametrize(
    ("url", "fine"),
    [
        ("https://watch.example.org", True),
        ("https://watch.example.org:8443/watchbill/", True),
        ("http://[::1]:7480", True),
        ("watch.example.org", False),
        ("ftp://watch.example.org", False),
        ("https://anna:hunter2@watch.example.org", False),
        ("https://watch.example.org/?x=1", False),
        ("https://watch.example.org/#top", False),
        ("https://", False),
        ("https://watch.example.org:99999", False),
        ("https://watch.example.org/a b", False),
        ("https://watch.example.org/\\u001b]0;x", False),
        ("https://watch.example.org/" + "x" * 500, False),
        ("javascript:alert(1)//https://x", False),
    ],
)
def test_the_address_of_the_page_is_one_that_links_can_begin_with(
    tmp_path: Path, url: str, fine: bool
) -> None:
    text = f'[http]\nexternal_url = "{url}"\n'
    if not fine:
        found = problems(tmp_path, text)
        assert "collector.toml:6: http.external_url: got " in found
        assert "hunter2" not in found
        assert found.isprintable()
        return
    homes = Homes.resolve("collector", tmp_path)
    homes.etc.mkdir(parents=True)
    (homes.etc / "collector.toml").write_text(text)
    assert external_url(load_config(homes), "here") == url.rstrip("/")


def test_without_an_address_links_name_this_machine_and_whether_it_speaks_tls(tmp_path: Path) -> None:
    homes = Homes.resolve("collector", tmp_path)
    homes.etc.mkdir(parents=True)
    assert external_url(load_config(homes), "here") == "http://here:7480"
    assert external_url(load_config(homes), "fe80::1") == "http://[fe80::1]:7480"
    (homes.etc / "collector.toml").write_text('[http]\ncertificate = "/c"\nkey = "/k"\n')
    config = load_config(homes)
    assert external_url(config, "here") == "https://here:7480"
    assert answered_names(config, ["here"]) == ("here",)
    (homes.etc / "collector.toml").write_text('[http]\nexternal_url = "https://watch.example:8443/x"\n')
    assert answered_names(load_config(homes), ["here"]) == ("here", "watch.example")


@pytest.mark.parametrize(("text", "wanted"), [(PAGER, []), (PEER, ["page"])])
def test_what_would_be_in_a_digest_reaches_who_takes_none_in_the_way_of_its_kind(
    tmp_path: Path, text: str, wanted: list[str]
) -> None:
    homes = Homes.resolve("collector", tmp_path)
    homes.etc.mkdir(parents=True)
    (homes.etc / "collector.toml").write_text(text)
    config = load_config(homes)
    alone = without_digest(config.channel)
    routing, wrong = read_routing([], [], config.channel_names, config.digest, alone)
    assert not wrong

    def ways(**more: Any) -> list[str]:
        labels = {"alertname": "A", "severity": "minor"}
        alert = Standing("0" * 16, labels, firing=True, fired_ms=1, severity=Severity.MINOR, **more)
        return [one.way.value for one in destinations(alert, routing, "")]

    assert ways() == wanted
    assert ways(way=Way.PAGE) == ["page"]
    assert ways(quiet=True) == [], "what judges the past never pages"


def test_without_routes_everything_goes_to_the_first_channel(tmp_path: Path) -> None:
    homes = Homes.resolve("collector", tmp_path)
    homes.etc.mkdir(parents=True)
    (homes.etc / "collector.toml").write_text(CHANNEL)
    config = load_config(homes)
    routing, wrong = read_routing(config.route, config.maintenance, ["ops"], config.digest)
    assert not wrong
    assert [route.channels for route in routing.routes] == [("ops",)]
