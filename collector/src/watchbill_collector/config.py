"""What collector.toml may say."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from watchbill.config import Address, ByteSize, Duration, Homes, Problem, Table, Wrong, load, option
from watchbill.topics import PREFIX_DEFAULT, parse_mqtt_url, prefix_wanted
from watchbill_collector.dispatch.settings import Digest, Watchdog
from watchbill_collector.lifetimes import CERTIFICATE_LIFETIME_S_MAX, DAY_S, EXPIRED_GRACE_S_MAX

URL_CHARACTERS_MAX = 500
"""Of `external_url`: it is in every notice."""
_SITE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)


def _site(value: str) -> str | None:
    if _SITE.fullmatch(value):
        return None
    return "1 to 63 lower-case letters, digits and hyphens: it is part of identities and topics"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grpc:
    """Where agents stream and enrol."""

    listen: Address = option(
        Address("0.0.0.0", 7443),  # noqa: S104  Agents come from elsewhere; they need a certificate.
        help="Streams of agents: mutual TLS 1.3.",
    )
    enroll_listen: Address = option(
        Address("0.0.0.0", 7444),  # noqa: S104  Hosts come from elsewhere; they need a token.
        help="Enrolment, and renewal of expired certificates: TLS 1.3, without a client certificate.",
    )
    agents_max: int = option(10_000, at_least=1, at_most=100_000, help="Streams open at once.")

    def check(self) -> Iterator[Wrong]:
        """Tokens name the enrolment port, so it cannot be any."""
        if self.enroll_listen.port == 0:
            yield Wrong("enroll_listen", "port 0", "a fixed port: enrolment tokens name it")


def _is_page(url: str) -> bool:
    """Whether links can begin with this."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    plain = url.isascii() and url.isprintable() and not set(url) & set(' "<>\\`{|}^?#@')
    return (
        plain
        and len(url) <= URL_CHARACTERS_MAX
        and parts.scheme in ("http", "https")
        and bool(parts.hostname)
        and port != 0
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Http:
    """The page, the API, the metrics."""

    listen: Address = option(
        Address("127.0.0.1", 7480), help="Beyond loopback only with TLS, or behind a proxy that has it."
    )
    anonymous_read: bool = option(default=False, help="Reading without a token; on loopback only.")
    behind_proxy: bool = option(default=False, help="A proxy in front speaks TLS to the outside.")
    certificate: Path | None = option(None, help="PEM file with the certificate chain, for TLS.")
    key: Path | None = option(None, help="PEM file with its private key.")
    external_url: str = option(
        "",
        help="Where people reach the page, for links in notices; this machine's name and port without it.",
        example='"https://watch.example.org"',
    )

    def check(self) -> Iterator[Wrong]:
        """Credentials must not travel in the clear."""
        if self.external_url and not _is_page(self.external_url):
            shown = f'"{self.external_url[:80]}"'
            if "@" in shown or not shown.isprintable():
                shown = "an address with a secret or control characters in it"
            yield Wrong(
                "external_url",
                shown,
                'http:// or https:// with a host, such as "https://watch.example.org", without user, ? and #',
            )
        tls = self.certificate is not None and self.key is not None
        if (self.certificate is None) != (self.key is None):
            missing = "certificate" if self.certificate is None else "key"
            yield Wrong(missing, "nothing", "both certificate and key, or neither")
        if not self.listen.loopback and not tls and not self.behind_proxy:
            yield Wrong(
                "listen", f'"{self.listen}"', "loopback, or certificate and key, or behind_proxy = true"
            )
        if self.anonymous_read and not self.listen.loopback:
            yield Wrong("anonymous_read", "true", "false, when the API listens beyond loopback")


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """The control state: hosts, tokens, alerts' state."""

    url: str = option("", help="PostgreSQL, when SQLite is outgrown: postgresql://user@host/database.")
    password_file: Path | None = option(None, help="File with the database password; never in the URL.")

    def check(self) -> Iterator[Wrong]:
        """One of two kinds, and no secret in it."""
        if self.url and not self.url.startswith("postgresql://"):
            yield Wrong(
                "url", f'"{self.url.split(":")[0]}:..."', 'a URL that starts with "postgresql://", or ""'
            )
        if re.match(r"postgresql://[^/@]*:[^/@]*@", self.url):
            yield Wrong("url", "a password", "none in the URL: put it into a file and name password_file")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long history is kept, at which grain."""

    raw: Duration = option(Duration(15 * DAY_S), at_least=DAY_S, help="Samples as they came.")
    minute: Duration = option(Duration(90 * DAY_S), at_least=DAY_S, help="One value a minute.")
    hour: Duration = option(Duration(730 * DAY_S), at_least=DAY_S, help="One value an hour.")
    size: ByteSize | None = option(None, help="Bytes of history at most; the oldest days go first.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Bounds on what one query may cost."""

    samples_max: int = option(50_000_000, at_least=1_000, help="Samples one query may read.")
    memory: ByteSize = option(
        ByteSize(1024**3), at_least=ByteSize(64 * 1024**2), help="What all running queries may hold together."
    )
    timeout: Duration = option(Duration(60), at_least=1, at_most=3_600, help="How long one query may run.")
    lookback: Duration = option(
        Duration(300), at_least=1, at_most=DAY_S, help="How old an instant value may be."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Thresholds."""

    interval: Duration = option(
        Duration(15), at_least=1, at_most=3_600, help="How often groups without an interval are evaluated."
    )
    stock: bool = option(default=True, help="Whether the pack that comes with the collector is loaded.")
    stock_off: list[str] = option(
        [],
        help='What of the stock pack to leave out: files such as "network", alerts such as "HostRebooted".',
    )


EMBEDDED = "embedded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mqtt:
    """Agents that come through an MQTT broker, beside those that come by gRPC."""

    broker: str = option(
        "",
        help='"embedded": a mosquitto of the collector\'s own; or where yours is; off without.',
        example='"mqtts://broker.example:8883"',
    )
    listen: Address = option(
        Address("0.0.0.0", 8883),  # noqa: S104  Agents come from elsewhere; they need a certificate.
        help="The embedded broker's port for agents: TLS 1.3 with their certificates.",
    )
    enroll_listen: Address = option(
        Address("0.0.0.0", 8884),  # noqa: S104  Hosts come from elsewhere; they need a token.
        help="The embedded broker's port for enrolment: TLS 1.3, without a client certificate.",
    )
    ca: str = option("", help="PEM file with the authorities of your broker; this system's without it.")
    user: str = option("", help="The collector's name at your broker.")
    password_file: Path | None = option(None, help="File with the password.")
    certificate: Path | None = option(
        None, help="PEM file with a certificate for your broker, instead of a name."
    )
    key: Path | None = option(None, help="PEM file with its private key.")
    topic_prefix: str = option(PREFIX_DEFAULT, check=prefix_wanted, help="What all topics begin with.")
    agents_url: str = option(
        "", help="Where agents reach your broker, for tokens, when it is not the address above."
    )

    def check(self) -> Iterator[Wrong]:
        """One broker or the other, and no secret in the open."""
        if self.broker == EMBEDDED:
            yield from self._embedded()
        elif self.broker and parse_mqtt_url(self.broker) is None:
            yield Wrong("broker", _shown(self.broker), '"embedded" or "mqtts://HOST:PORT"; "" for none')
        if self.agents_url and parse_mqtt_url(self.agents_url) is None:
            yield Wrong("agents_url", _shown(self.agents_url), '"mqtts://HOST:PORT"')
        if bool(self.user) != (self.password_file is not None):
            missing = "password_file" if self.user else "user"
            yield Wrong(missing, "nothing", "both user and password_file, or neither")
        if (self.certificate is None) != (self.key is None):
            yield Wrong(
                "certificate" if self.certificate is None else "key", "nothing", "both certificate and key"
            )

    def _embedded(self) -> Iterator[Wrong]:
        from watchbill_collector.ingest.mosquitto import find

        if find() is None:
            yield Wrong(
                "broker",
                '"embedded", and no mosquitto is on this machine',
                "apt-get install mosquitto first, or a broker of your own",
            )
        for key in ("listen", "enroll_listen"):
            if getattr(self, key).port == 0:
                yield Wrong(key, "port 0", "a fixed port: agents and tokens name it")


def _shown(url: str) -> str:
    return f'"{url[:80]}"' if "@" not in url and url.isprintable() else "an address with a secret in it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """What the collector's own authority issues to agents; a token may say otherwise for its hosts."""

    lifetime: Duration = option(
        Duration(7 * DAY_S), at_least=60, at_most=CERTIFICATE_LIFETIME_S_MAX, help="Renewed at half of it."
    )
    expired_grace: Duration = option(
        Duration(30 * DAY_S),
        at_most=EXPIRED_GRACE_S_MAX,
        help="How long an expired certificate may still be renewed.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectorConfig:
    """collector.toml and collector.d/*.toml."""

    site: str = option("main", check=_site, help="The name of this collector's site; every identity has it.")
    address: str = option(
        "", help="The name under which agents reach this machine; its own host name if empty."
    )
    names: list[str] = option([], help="Further names and addresses for the server's certificate.")
    grpc: Grpc = option(Grpc())
    http: Http = option(Http())
    store: Store = option(Store())
    retention: Retention = option(Retention())
    query: Query = option(Query())
    rules: Rules = option(Rules())
    certificates: Certificates = option(Certificates())
    mqtt: Mqtt = option(Mqtt())
    channel: list[Table] = option([], help="Where notifications go; docs/notifications.md has every kind.")
    route: list[Table] = option([], help="Which alerts go to which channel; docs/notifications.md.")
    maintenance: list[Table] = option([], help="Times that come round, in which alerts tell nobody.")
    digest: Digest = option(Digest())
    watchdog: Watchdog = option(Watchdog())

    def check(self) -> Iterator[Wrong | Problem]:
        """Judge what plug-ins and dispatch know: a page never sent must not look configured."""
        yield from self._ports_named_twice()
        if self.channel:
            from watchbill_collector.notifiers.configured import channel_problems

            yield from channel_problems(self.channel)
        if self.route or self.maintenance:
            from watchbill_collector.dispatch.options import read_routing
            from watchbill_collector.notifiers.configured import without_digest

            alone = without_digest(self.channel)
            yield from read_routing(self.route, self.maintenance, self.channel_names, self.digest, alone)[1]

    def _ports_named_twice(self) -> Iterator[Wrong]:
        """Two doors at one address: the start would say of the second that somebody has its port."""
        doors = [(("grpc", "listen"), self.grpc.listen), (("grpc", "enroll_listen"), self.grpc.enroll_listen)]
        if self.mqtt.broker == EMBEDDED:
            doors += [(("mqtt", key), getattr(self.mqtt, key)) for key in ("listen", "enroll_listen")]
        doors.append((("http", "listen"), self.http.listen))
        for at, (key, address) in enumerate(doors):
            for other, theirs in doors[:at]:
                if address.port and address.port == theirs.port and _overlap(address.host, theirs.host):
                    yield Wrong(key, f'"{address}"', f"another port: {'.'.join(other)} has it")

    @property
    def channel_names(self) -> list[str]:
        """Of the channels, in their order."""
        return [str(table.values.get("name", "")) for table in self.channel]


def _overlap(one: str, other: str) -> bool:
    return one == other or bool({one, other} & {"0.0.0.0", "::"})  # noqa: S104 - Not listening.


def load_config(homes: Homes) -> CollectorConfig:
    """Read collector.toml and its drop-ins; a missing file means the defaults. Raises ConfigError."""
    return load(CollectorConfig, homes.etc / "collector.toml", homes.etc / "collector.d", main_required=False)
