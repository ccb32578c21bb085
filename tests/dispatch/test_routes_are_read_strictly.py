"""What collector.toml says of routes and windows: every mistake with its file, its line and what is wanted."""

from pathlib import Path

import pytest

from watchbill.config import Homes
from watchbill.errors import ConfigError
from watchbill_collector.config import load_config
from watchbill_collector.dispatch.options import read_routing

CHANNEL = '[[channel]]\nname = "ops"\nkind = "webhook"\nurl = "https://hooks.example/x"\n'


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


def test_without_routes_everything_goes_to_the_first_channel(tmp_path: Path) -> None:
    homes = Homes.resolve("collector", tmp_path)
    homes.etc.mkdir(parents=True)
    (homes.etc / "collector.toml").write_text(CHANNEL)
    config = load_config(homes)
    routing, wrong = read_routing(config.route, config.maintenance, ["ops"], config.digest)
    assert not wrong
    assert [route.channels for route in routing.routes] == [("ops",)]
