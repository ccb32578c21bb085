"""Where messages are at an MQTT broker.

    <prefix>/<site>/<agent_id>/hello    an agent begins or ends a link
    <prefix>/<site>/<agent_id>/up       dictionaries, batches, goodbyes
    <prefix>/<site>/<agent_id>/beat     beats
    <prefix>/<site>/<agent_id>/down     everything the collector says to this agent
    <prefix>/<site>/enroll/<request>/ask, .../answer    a host that is no agent yet

The prefix is `watchbill/1` unless configured. A site and an agent id have no character that a broker reads as a
wildcard or as a level of its own (`+ # / $`), so no name can reach beyond its own topics; what does not fit exactly
is no topic of ours.
"""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from watchbill.errors import Unreadable
from watchbill.identity import SITE_PATTERN, Endpoint, is_agent_id, parse_endpoint

PREFIX_DEFAULT: Final = "watchbill/1"
PREFIX_BYTES_MAX: Final = 128
TOPIC_BYTES_MAX: Final = PREFIX_BYTES_MAX + 128
REQUEST_PATTERN: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
_PREFIX: Final = re.compile(r"[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*", re.ASCII)
_ENROLMENT: Final = "enroll"


class Lane(Enum):
    """The last level of an agent's topics. Order holds within a lane, not between two."""

    HELLO = "hello"
    UP = "up"
    BEAT = "beat"
    DOWN = "down"


UPWARD: Final = (Lane.HELLO, Lane.UP, Lane.BEAT)
"""What agents publish to."""

_LANES: Final = {lane.value: lane for lane in UPWARD}
_HELLO_TAG: Final = 0x0A
_BEAT_TAG: Final = 0x22


def lane_of(message: bytes) -> Lane:
    """The lane of an Up message, by its first byte: the tag of its one field."""
    tag = message[0] if message else 0
    if tag == _BEAT_TAG:
        return Lane.BEAT
    return Lane.HELLO if tag == _HELLO_TAG else Lane.UP


def prefix_wanted(prefix: str) -> str | None:
    """What a prefix has to be, when this one is not; for configuration."""
    if len(prefix) <= PREFIX_BYTES_MAX and _PREFIX.fullmatch(prefix):
        return None
    return f'levels of letters, digits and _.-, such as "{PREFIX_DEFAULT}", at most {PREFIX_BYTES_MAX} characters'


MQTTS: Final = "mqtts://"
MQTT_PORT: Final = 8883


@dataclass(frozen=True, slots=True)
class MqttUrl:
    """A broker's address: `mqtts://host[:port][/prefix]`; there is no other scheme, and no user in it."""

    host: str
    port: int
    prefix: str = PREFIX_DEFAULT

    @property
    def endpoint(self) -> Endpoint:
        """Host and port."""
        return Endpoint(self.host, self.port)

    def __str__(self) -> str:
        at = f"{MQTTS}{self.endpoint}"
        return at if self.prefix == PREFIX_DEFAULT else f"{at}/{self.prefix}"


def parse_mqtt_url(text: str) -> MqttUrl | None:
    """Read one; None for what is none. A path is the topics' prefix."""
    if not text.startswith(MQTTS):
        return None
    where, _, prefix = text.removeprefix(MQTTS).partition("/")
    bare = where.rpartition(":")[2].endswith("]") or ":" not in where
    try:
        endpoint = parse_endpoint(f"{where}:{MQTT_PORT}" if bare else where)
    except Unreadable:
        return None
    prefix = prefix or PREFIX_DEFAULT
    return None if prefix_wanted(prefix) else MqttUrl(endpoint.host, endpoint.port, prefix)


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one site."""

    site: str
    prefix: str = PREFIX_DEFAULT

    def __post_init__(self) -> None:
        assert SITE_PATTERN.fullmatch(self.site), "sites are checked where they are configured"
        assert prefix_wanted(self.prefix) is None, "prefixes are checked where they are configured"

    @property
    def root(self) -> str:
        """Above everything of the site."""
        return f"{self.prefix}/{self.site}"

    def of(self, agent_id: str, lane: Lane) -> str:
        """One topic of an agent."""
        assert is_agent_id(agent_id)
        return f"{self.root}/{agent_id}/{lane.value}"

    def filters(self) -> list[str]:
        """What the collector subscribes to for its agents."""
        return [f"{self.root}/+/{lane.value}" for lane in UPWARD]

    def read(self, topic: str) -> tuple[str, Lane]:
        """The agent and the lane of a topic that agents publish to. Raises Unreadable for any other."""
        root, _, rest = topic.rpartition("/")
        head, _, agent_id = root.rpartition("/")
        lane = _LANES.get(rest)
        if lane is None or head != self.root or not is_agent_id(agent_id):
            raise Unreadable(f"no agent's topic: {topic[:TOPIC_BYTES_MAX]!a}")
        return agent_id, lane

    # ------------------------------------------------------------ enrolment

    def ask(self, request: str) -> str:
        """Where a host asks to be enrolled. `request` is 32 random hexadecimal digits that it made up."""
        assert REQUEST_PATTERN.fullmatch(request)
        return f"{self.root}/{_ENROLMENT}/{request}/ask"

    def answer(self, request: str) -> str:
        """Where it is answered."""
        assert REQUEST_PATTERN.fullmatch(request)
        return f"{self.root}/{_ENROLMENT}/{request}/answer"

    def ask_filter(self) -> str:
        """What the collector subscribes to for enrolments."""
        return f"{self.root}/{_ENROLMENT}/+/ask"

    def read_ask(self, topic: str) -> str | None:
        """The request of a topic that hosts ask on; None for any other."""
        levels = topic.removeprefix(f"{self.root}/{_ENROLMENT}/").split("/")
        if len(levels) == 2 and levels[1] == "ask" and REQUEST_PATTERN.fullmatch(levels[0]):
            return levels[0] if topic == self.ask(levels[0]) else None
        return None
