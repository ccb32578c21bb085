"""Which way leads to the collector: gRPC to its own port, or MQTT through a broker.

What agent.toml says decides; without a word there, the way this host was enrolled by.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from watchbill.clock import Clock
from watchbill.errors import UsageError
from watchbill.files import read_bounded
from watchbill.topics import MqttUrl, parse_mqtt_url
from watchbill_agent.budget import Budget
from watchbill_agent.config import SYSTEM_AUTHORITIES, AgentConfig
from watchbill_agent.transports import Transport
from watchbill_agent.true_time import TrueTime

if TYPE_CHECKING:
    from watchbill.identity import AgentIdentity
    from watchbill_agent.transports.over_mqtt import MqttOptions

SECRET_BYTES_MAX = 4_096
AUTHORITIES_BYTES_MAX = 1 << 20


def mqtt_url(config: AgentConfig, identity: "AgentIdentity | None") -> MqttUrl | None:
    """The broker, None when gRPC is the way."""
    if config.mqtt.url:
        return parse_mqtt_url(config.mqtt.url)
    if config.collector is not None or identity is None or not identity.mqtt_url:
        return None
    return parse_mqtt_url(identity.mqtt_url)


@dataclass(frozen=True, slots=True)
class BrokerAccess:
    """How this host is known at the broker, read from where agent.toml says. `ca_pem` as in `MqttOptions`."""

    ca_pem: bytes | None = None
    user: str = ""
    password: str = field(default="", repr=False)


def access(config: AgentConfig) -> BrokerAccess:
    """Read it; secrets anew every time. Raises WatchbillError for a file that cannot be used."""
    mqtt = config.mqtt
    ca_pem: bytes | None = None
    if mqtt.ca == SYSTEM_AUTHORITIES:
        ca_pem = b""
    elif mqtt.ca:
        ca_pem = read_bounded(mqtt.ca_path, AUTHORITIES_BYTES_MAX)
    password = ""
    if mqtt.password_file is not None:
        password = read_bounded(mqtt.password_file, SECRET_BYTES_MAX).decode("utf-8", "replace").strip()
    return BrokerAccess(ca_pem, mqtt.user, password)


def mqtt_options(config: AgentConfig, url: MqttUrl) -> "MqttOptions":
    """What the transport is made from. Raises WatchbillError for a file that cannot be used."""
    require_mqtt()
    from watchbill_agent.transports.over_mqtt import MqttOptions

    found = access(config)
    return MqttOptions(
        host=url.host,
        port=url.port,
        prefix=config.mqtt.topic_prefix or url.prefix,
        ca_pem=found.ca_pem,
        user=found.user,
        password=found.password,
        proxy=config.proxy,
        compress=config.edge,
    )


def open_way(
    config: AgentConfig, identity: "Callable[[], AgentIdentity]", clock: Clock, time: TrueTime
) -> tuple[Transport, Budget | None]:
    """The way to the collector, and what may be spent on it where that is bounded; only its own packages are
    imported. `identity` is asked at each connection: the certificate is renewed meanwhile."""
    url = mqtt_url(config, identity())
    if url is None:
        from watchbill_agent.transports.over_grpc import GrpcTransport

        endpoint = str(config.collector) if config.collector is not None else ""
        return GrpcTransport(identity, clock, endpoint=endpoint, proxy=config.proxy, time=time), None
    require_mqtt()
    from watchbill_agent.transports.over_mqtt import MqttTransport, WireCount

    limit = config.bytes_per_day
    budget = None if limit is None else Budget(limit, clock.monotonic_s())
    counted = WireCount(budget=budget)
    return MqttTransport(identity, lambda: mqtt_options(config, url), clock, counted, time), budget


def require_mqtt() -> None:
    """Raises UsageError where the package for MQTT was not installed."""
    try:
        import aiomqtt  # noqa: F401
    except ImportError as exc:
        raise UsageError("MQTT needs more packages: pip install 'watchbill-agent[mqtt]'") from exc
