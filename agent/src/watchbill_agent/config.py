"""What agent.toml and agent.d/*.toml may say, and reading them whole.

Everything has a default: a host that was enrolled needs no file at all, since the identity names the
collector. Samplers bring their own `Options`; their tables are read here against them, so one `check-config`
judges it all.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from watchbill.config import Address, ByteSize, Duration, Homes, Table, Wrong, load, option
from watchbill.config.convert import show_value
from watchbill.errors import ConfigError, Problem, Unreadable, UsageError
from watchbill.limits import (
    BEAT_INTERVAL_MS_SLOWEST,
    KIB,
    LABEL_NAME_BYTES_MAX,
    LABEL_VALUE_BYTES_MAX,
    LABELS_MAX,
    MIB,
    RECORD_BYTES_MAX,
    SPOOL_BYTES_DEFAULT,
    SPOOL_DISK_BYTES_DEFAULT,
    TICKS_PER_BLOCK_MAX,
)
from watchbill_agent.budget import BYTES_PER_DAY_MIN

SYSTEM_AUTHORITIES = "system"
EDGE_INTERVAL_S = 60
EDGE_TICKS_PER_MESSAGE = 10
EDGE_BYTES_PER_DAY = 5_000_000
INTERVAL_S = 10
ENV_PREFIX = "WATCHBILL_AGENT_"
MAIN_FILE = "agent.toml"
DROPINS = "agent.d"
JOB_DEFAULT = "node"
INTERVAL_MAX_S = 3600
SPOOL_NAME = "spool"
SPOOL_BYTES_MAX = ByteSize(1 << 30)
RESERVED_LABELS = ("instance", "job")


def _instance_wanted(value: str) -> str | None:
    from watchbill.identity import INSTANCE_PATTERN

    right = not value or INSTANCE_PATTERN.fullmatch(value)
    return None if right else "a host name: letters, digits and . _ : @ -, at most 253 characters"


def _job_wanted(value: str) -> str | None:
    size = len(value.encode("utf-8", "surrogatepass"))
    return None if 0 < size <= LABEL_VALUE_BYTES_MAX else f"1 to {LABEL_VALUE_BYTES_MAX} bytes of text"


def _proxy_wanted(value: str) -> str | None:
    if value in ("", "env"):
        return None
    from watchbill.tls import check_proxy

    try:
        check_proxy(value)
    except Unreadable:
        return '"http://HOST:PORT", "env" for the environment\'s, or "" for none'
    return None


def _mqtt_wanted(value: str) -> str | None:
    from watchbill.topics import parse_mqtt_url

    right = not value or parse_mqtt_url(value) is not None
    return None if right else '"mqtts://HOST:PORT": TLS always, and no user or password in it'


def _prefix_wanted(value: str) -> str | None:
    from watchbill.topics import prefix_wanted

    return prefix_wanted(value) if value else None


def _port_wanted(value: Address) -> str | None:
    return None if value.port else "a port of 1 to 65535"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolConfig:
    """Where samples wait while the collector is away. Samples beyond it go oldest first, and are counted."""

    kind: Literal["disk", "memory"] = option(
        "disk",
        help='"disk" survives a restart of the agent and a power cut; "memory" writes nothing, and what waits when '
        "the agent ends is lost and counted.",
    )
    dir: Path | None = option(
        None, help="Where the spool's files are; without it spool/ in the state directory."
    )
    bytes: ByteSize | None = option(
        None,
        help="How much may wait; without it 128 MiB on disk, 16 MiB in memory.",
        example='"1GiB"',
        at_least=ByteSize(2 * RECORD_BYTES_MAX),
        at_most=SPOOL_BYTES_MAX,
    )
    crit_bytes: ByteSize = option(
        ByteSize(4 * MIB),
        help="How much is reserved on the disk for critical records, so that they are kept when it is full.",
        at_least=ByteSize(128 * KIB),
        at_most=ByteSize(64 * MIB),
    )

    @property
    def bytes_max(self) -> int:
        """How much may wait."""
        if self.bytes is not None:
            return self.bytes
        return SPOOL_BYTES_DEFAULT if self.kind == "memory" else SPOOL_DISK_BYTES_DEFAULT


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttConfig:
    """A broker between this host and the collector; mqtt = "mqtts://HOST:PORT" says the same as url alone."""

    shorthand: ClassVar[str] = "url"

    url: str = option(
        "",
        help="The broker. Without it, as enrolled.",
        example='"mqtts://broker.example:8883"',
        check=_mqtt_wanted,
    )
    ca: str = option(
        "", help='PEM file with the broker\'s authorities, or "system"; without it those that enrolment gave.'
    )
    user: str = option("", help="This host's name at the broker; without one its certificate says who it is.")
    password_file: Path | None = option(None, help="File with the password.")
    topic_prefix: str = option(
        "", help="What all topics begin with; without it as the collector says.", check=_prefix_wanted
    )
    bytes_per_day: ByteSize | None = option(
        None,
        help="What this host may spend on the wire: 5MB with the edge profile. Then beats carry no values, and records "
        "wait in the spool.",
        example='"5MB"',
        at_least=ByteSize(BYTES_PER_DAY_MIN),
    )

    @property
    def ca_path(self) -> Path:
        """Of the file with authorities."""
        return Path(self.ca)

    def check(self) -> Iterator[Wrong]:
        """A name and its password come together."""
        if bool(self.user) != (self.password_file is not None):
            missing = "password_file" if self.user else "user"
            yield Wrong(missing, "nothing", "both user and password_file, or neither")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrometheusConfig:
    """A page that Prometheus can scrape, as node_exporter serves it."""

    listen: Address | None = option(
        None, help="Address and port of /metrics; off without one. Anybody who reaches it can read it."
    )
    textfile: Path | None = option(
        None,
        help="Directory of *.prom files that scripts write; the same as directory of [samplers.textfile].",
        example='"/var/lib/prometheus/node-exporter"',
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatConfig:
    """Pings of backup jobs and heartbeat checks: /ping/NAME, and /start, /fail, /log or an exit code behind it."""

    listen: Address | None = option(
        None,
        help="Address and port that takes pings; off without one. Anybody who reaches it can say how a job went.",
        example='"127.0.0.1:7481"',
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplersConfig:
    """Which samplers run, and a table of options for each, such as [samplers.filesystem]."""

    enable: frozenset[str] = option(frozenset(), help="Samplers to run beside those that are on by default.")
    disable: frozenset[str] = option(frozenset(), help="Samplers not to run; disabling wins over enabling.")
    tables: dict[str, Table] = option({}, rest=True)

    def check(self) -> Iterator[Wrong | Problem]:
        """Judge names and options against the samplers there are."""
        yield from _sampler_problems(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """The agent samples this host and streams what it sees to the collector.

    Drop-ins in agent.d/*.toml win over this file, the later one over the earlier.
    """

    collector: Address | None = option(
        None,
        help="The collector's address, where it differs from the one learnt at enrolment.",
        example='"collector.example:7443"',
        check=_port_wanted,
    )
    interval: Duration | None = option(
        None,
        help="How often to sample: 10s, with the edge profile 60s.",
        example='"10s"',
        at_least=Duration(0.1),
        at_most=Duration(INTERVAL_MAX_S),
    )
    ticks_per_message: int | None = option(
        None,
        help="Readings that travel together, 1 or with the edge profile 10; more cost less and arrive later.",
        example="1",
        at_least=1,
        at_most=TICKS_PER_BLOCK_MAX,
    )
    labels: dict[str, str] = option(
        {},
        help="Labels of every series of this host. Those bound at enrolment win; only they decide access.",
        length_max=LABELS_MAX - len(RESERVED_LABELS),
        example='{ rack = "b12" }',
        check=lambda labels: [
            wrong for name, value in labels.items() for wrong in _label_wrongs(name, value)
        ],
    )
    instance: str = option(
        "", help="This host's name; without it the one given at enrolment.", check=_instance_wanted
    )
    job: str = option(JOB_DEFAULT, help="The job label.", check=_job_wanted)
    profile: Literal["server", "edge"] = option(
        "server",
        help='"edge": seldom, together and compressed, for hosts whose every byte is paid for.',
    )
    identity_dir: Path | None = option(
        None, help="Where this host's identity is kept, when not with the rest of the agent's state."
    )
    mqtt: MqttConfig = option(MqttConfig())
    proxy: str = option(
        "",
        help='A proxy on the way to the collector: "http://HOST:PORT", or "env": as the environment says.',
        check=_proxy_wanted,
    )
    procfs: Path = option(Path("/proc"), help="Where /proc is.")
    sysfs: Path = option(Path("/sys"), help="Where /sys is.")
    rootfs: Path = option(Path("/"), help="Where the host's root file system is.")
    spool: SpoolConfig = option(SpoolConfig())
    samplers: SamplersConfig = option(SamplersConfig())
    prometheus: PrometheusConfig = option(PrometheusConfig())
    heartbeat: HeartbeatConfig = option(HeartbeatConfig())

    @property
    def edge(self) -> bool:
        """Whether bytes are dear."""
        return self.profile == "edge"

    @property
    def interval_ms(self) -> int:
        """The sampling interval in ms."""
        if self.interval is not None:
            return self.interval.ms
        return (EDGE_INTERVAL_S if self.edge else INTERVAL_S) * 1000

    @property
    def ticks(self) -> int:
        """Readings that travel together."""
        if self.ticks_per_message is not None:
            return self.ticks_per_message
        return EDGE_TICKS_PER_MESSAGE if self.edge else 1

    @property
    def beat_interval_ms(self) -> int:
        """How seldom this agent beats; 0: as the collector asks."""
        return min(self.interval_ms, BEAT_INTERVAL_MS_SLOWEST) if self.edge else 0

    @property
    def bytes_per_day(self) -> int | None:
        """What may be spent on the wire, where that is bounded."""
        if self.mqtt.bytes_per_day is not None:
            return int(self.mqtt.bytes_per_day)
        return EDGE_BYTES_PER_DAY if self.edge else None

    def identity_home(self, homes: Homes) -> Path:
        """Where this host's identity is."""
        return self.identity_dir or homes.var

    def spool_home(self, homes: Homes) -> Path:
        """Where the spool's files are."""
        return self.spool.dir or homes.var / SPOOL_NAME


def _label_wrongs(name: str, value: str) -> Iterator[Wrong]:
    key = (name,)
    plain = name.isascii() and name.replace("_", "a").isalnum() and not name[:1].isdigit()
    if not plain or name.startswith("__") or len(name) > LABEL_NAME_BYTES_MAX:
        yield Wrong(key, show_value(name), "a label name: letters, digits and _, no digit or __ first")
    elif name in RESERVED_LABELS:
        yield Wrong(key, show_value(value), f"no such label: set {name} itself")
    if not value or len(value.encode("utf-8", "surrogatepass")) > LABEL_VALUE_BYTES_MAX:
        yield Wrong(key, show_value(value), f"1 to {LABEL_VALUE_BYTES_MAX} bytes of text")


def _sampler_problems(config: SamplersConfig) -> Iterator[Wrong | Problem]:
    from watchbill_agent.samplers import discover

    kinds = discover()
    for key, names in (("enable", config.enable), ("disable", config.disable)):
        for name in sorted(names - kinds.keys()):
            yield Wrong(key, show_value(name), f"samplers that exist{_near(name, kinds)}")
    for name, table in config.tables.items():
        if name not in kinds:
            yield table.problem("", "an unknown sampler", f"one that exists{_near(name, kinds)}")
        else:
            yield from _option_problems(kinds[name], table)


def _option_problems(kind: Any, table: Table) -> Iterable[Problem]:
    from watchbill_agent.hostpaths import HostPaths
    from watchbill_agent.names import WrongOption

    try:
        # Making a sampler opens nothing; it judges what types cannot, such as regular expressions.
        kind(table.read(kind.options_type), HostPaths())
    except ConfigError as exc:
        return exc.problems
    except WrongOption as exc:
        return [table.problem(exc.field, exc.got, exc.wanted)]
    except UsageError as exc:
        return [table.problem("", show_value(str(exc)), "options that the sampler can use")]
    return []


def _near(name: str, kinds: Iterable[str]) -> str:
    import difflib

    known = sorted(kinds)
    near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]}?)" if near else f": {', '.join(known)}"


def chosen_samplers(config: SamplersConfig, textfile: Path | None = None) -> dict[str, Any]:
    """The samplers to run and their options, by name, in the order they run. `textfile` is the directory of the sampler
    of that name, where its own table names none."""
    from watchbill_agent.samplers import discover

    chosen: dict[str, Any] = {}
    for name, kind in discover().items():
        if (kind.default_on or name in config.enable) and name not in config.disable:
            table = config.tables.get(name)
            options = table.read(kind.options_type) if table is not None else kind.options_type()
            if name == "textfile" and textfile is not None and not options.directory:
                options = kind.options_type(directory=str(textfile))
            chosen[name] = options
    return chosen


def load_config(homes: Homes, env: Mapping[str, str] = os.environ) -> AgentConfig:
    """The configuration of this host. Raises ConfigError with every problem."""
    return load(
        AgentConfig,
        homes.etc / MAIN_FILE,
        homes.etc / DROPINS,
        env=env,
        env_prefix=ENV_PREFIX,
        main_required=False,
    )
