"""Asks Redis (or Valkey, KeyDB) how it is: does it answer PING and how fast, clients, memory, replication, and whether
it can still save.

Series are redis_exporter's.

Reasons: `refused`, `auth`, `not-permitted`, `loading`, `too-many-connections`, `connect-failed`, `timeout`,
`not-redis` (something else answers there), `master-link-down`, `saving-failed` (a warning), `over-warn`, `over-fail`;
`credential` and `tls-files` where nothing can be found out.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from watchbill.config import Wrong, option
from watchbill_agent.checks.apart import READER
from watchbill_agent.checks.check import About, Failed, Outcome, Probe, Samples, Verdict
from watchbill_agent.checks.database import (
    FAIL_DEFAULT,
    WARN_DEFAULT,
    Phases,
    in_time,
    own_end,
    words_of,
)
from watchbill_agent.checks.resp import NotRedis, Resp, SaidNo, read_info
from watchbill_agent.checks.secret import secret_of, secret_wanted
from watchbill_agent.checks.thresholds import LIMITS_MAX, Thresholds, limits_wrong

SYSTEM_TRUST: Final = Path(ssl.get_default_verify_paths().openssl_cafile)

NUMBERS: Final = (
    "connect_seconds",
    "query_seconds",
    "connections",
    "connections_max",
    "connections_used_ratio",
    "memory_bytes",
    "memory_max_bytes",
    "memory_used_ratio",
    "replicas",
    "is_replica",
    "replication_lag_seconds",
    "uptime_seconds",
)
_GAUGES: Final = (
    ("connected_clients", "redis_connected_clients", "Clients."),
    ("blocked_clients", "redis_blocked_clients", "Clients that wait in a blocking call."),
    ("maxclients", "redis_config_maxclients", "Clients that there can be."),
    ("used_memory", "redis_memory_used_bytes", "Memory in use."),
    ("used_memory_rss", "redis_memory_used_rss_bytes", "Memory that the system has given it."),
    ("maxmemory", "redis_memory_max_bytes", "Memory that it may use; 0 without a limit."),
    ("connected_slaves", "redis_connected_slaves", "Replicas that are connected."),
    ("uptime_in_seconds", "redis_uptime_in_seconds", "How long it has run."),
)
_COUNTERS: Final = (
    ("total_commands_processed", "redis_commands_processed_total", "Commands."),
    ("rejected_connections", "redis_rejected_connections_total", "Connections that were too many."),
    ("evicted_keys", "redis_evicted_keys_total", "Keys that were thrown out for memory."),
)
_SAVES: Final = ("rdb_last_bgsave_status", "aof_last_write_status")
_SAID: Final = (
    ("auth", ("wrongpass", "noauth", "invalid password", "invalid username", "authentication required")),
    ("not-permitted", ("noperm", "no permissions")),
    ("loading", ("loading",)),
    ("too-many-connections", ("max number of clients",)),
    ("refused", ("refused", "connect call failed", "no such file")),
    ("timeout", ("timeout",)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Where the server is, as whom, and what is too much."""

    host: str = option("127.0.0.1", help="A name or an address.")
    port: int = option(6379, at_least=1, at_most=65_535, help="Its port.")
    socket: Path | None = option(
        None, help="Its socket, instead of host and port.", example='"/run/redis/redis.sock"'
    )
    user: str = option("", help="The user of its ACL; empty for the default one.")
    password_file: str = option(
        "", check=secret_wanted, help="Where the password is.", example='"credential:redis"'
    )
    tls: bool = option(False, help="Whether the connection is TLS.")
    ca_file: Path | None = option(
        None, help="What its certificate is verified against, instead of the system's."
    )
    warn: list[str] = option(
        list(WARN_DEFAULT), length_max=LIMITS_MAX, check=limits_wrong, help=f"Limits on {', '.join(NUMBERS)}."
    )
    fail: list[str] = option(
        list(FAIL_DEFAULT), length_max=LIMITS_MAX, check=limits_wrong, help="Limits that are far too much."
    )

    def check(self) -> tuple[Wrong, ...]:
        """What belongs to TLS."""
        if self.ca_file is not None and not self.tls:
            return (Wrong("tls", "false", "true with ca_file"),)
        return ()


@dataclass(slots=True)
class _Found:
    """What a look has found so far."""

    phases: Phases = field(default_factory=Phases)
    info: Mapping[str, Any] = field(default_factory=dict)
    at: str = "connecting"
    """What is being done."""


class Redis(Probe):
    """Asks a Redis server."""

    kind = "redis"
    options_type = Options
    interval_s = 30.0
    timeout_s = 5.0

    def __init__(self, options: Options, about: About) -> None:
        super().__init__(options, about)
        self._thresholds = Thresholds("redis", options, NUMBERS)

    async def look(self, within_s: float) -> Outcome:
        """Connect, ask, hang up."""
        options: Options = self.options
        until_s = own_end(within_s)
        password = await secret_of(options.password_file, until_s) if options.password_file else ""
        found = _Found()
        try:
            in_good_time = await in_time(self._ask(found, password, until_s), until_s)
        except NotRedis as exc:
            raise self._failed(found, "not-redis", f"{found.at}: {exc}") from None
        except (SaidNo, OSError, EOFError) as exc:
            said = words_of(exc, password)
            raise self._failed(found, _reason(said), f"{found.at}: {said}") from None
        if not in_good_time:
            raise self._failed(found, "timeout", f"{found.at}: got no answer within {within_s:g} s")
        return self._judged(found)

    def _failed(self, found: _Found, reason: str, detail: str) -> Failed:
        samples = Samples()
        found.phases.put(samples)
        samples.gauge("redis_up", "Whether it answered.", 0)
        return Failed(reason, detail, verdict=Verdict.CRITICAL, samples=samples)

    # ------------------------------------------------------------ asking

    async def _ask(self, found: _Found, password: str, until_s: float) -> None:
        options: Options = self.options
        with found.phases.phase("connect"):
            server = await self._connected(until_s)
            try:
                if password:
                    await server.ask("AUTH", *filter(None, (options.user, password)))
            except BaseException:
                server.close()
                raise
        try:
            found.at = "PING"
            with found.phases.phase("query"):
                await server.ask("PING")
            found.at = "INFO"
            found.info = read_info(await server.ask("INFO"))
        finally:
            server.close()

    async def _connected(self, until_s: float) -> Resp:
        options: Options = self.options
        if options.socket is not None:
            return await Resp.connect_here(options.socket)
        secured = None
        if options.tls:
            # Apart, whatever it is: reading all that the system trusts takes 20 ms.
            trusted = options.ca_file or SYSTEM_TRUST
            making = partial(ssl.create_default_context, cafile=options.ca_file)
            secured = await READER.read((trusted,), making, "tls-files", until_s)
        return await Resp.connect(options.host, options.port, secured)

    # ------------------------------------------------------------ judging

    def _judged(self, found: _Found) -> Outcome:
        info, samples = found.info, Samples()
        found.phases.put(samples)
        samples.gauge("redis_up", "Whether it answered.", 1)
        for key, name, help_ in _GAUGES:
            if isinstance(info.get(key), int | float):
                samples.gauge(name, help_, info[key])
        for key, name, help_ in _COUNTERS:
            if isinstance(info.get(key), int | float):
                samples.counter(name, help_, info[key])
        replica = info.get("role") in ("slave", "replica")
        link_up = info.get("master_link_status") == "up"
        samples.gauge("watchbill_check_redis_is_replica", "Whether it is a replica.", float(replica))
        if replica:
            samples.gauge("redis_master_link_up", "Whether the replica hears its master.", float(link_up))
            lag_s = info.get("master_last_io_seconds_ago", -1)
            if isinstance(lag_s, int) and lag_s >= 0:
                samples.gauge("redis_master_last_io_seconds", "Since it heard of it last.", lag_s)
        for key in _SAVES:
            if key in info:
                name = f"redis_{key}"
                samples.gauge(name, "Whether the last time went well.", float(info[key] == "ok"))
        return self._verdict(found, samples, replica=replica, link_up=link_up)

    def _verdict(self, found: _Found, samples: Samples, *, replica: bool, link_up: bool) -> Outcome:
        info = found.info
        numbers = _numbers(found, replica=replica)
        if info.get("loading"):
            return Outcome(Verdict.CRITICAL, "loading", "it is still reading its data", samples)
        if replica and not link_up:
            where = f"{info.get('master_host', '')}:{info.get('master_port', '')}"
            detail = f"got the link to {where} {info.get('master_link_status')}, wanted up"
            return Outcome(Verdict.CRITICAL, "master-link-down", detail, samples)
        detail = f"{numbers.get('connections', 0):g} clients, {numbers.get('memory_bytes', 0):g} bytes"
        outcome = self._thresholds.judge(numbers, samples, detail)
        unsaved = [key for key in _SAVES if info.get(key, "ok") != "ok"]
        if outcome.verdict is Verdict.OK and unsaved:
            said = f"got {unsaved[0]} {info[unsaved[0]]}, wanted ok"
            return Outcome(Verdict.WARNING, "saving-failed", said, samples)
        return outcome


def _numbers(found: _Found, *, replica: bool) -> dict[str, float]:
    info = found.info
    clients, clients_max = info.get("connected_clients"), info.get("maxclients")
    memory, memory_max = info.get("used_memory"), info.get("maxmemory")
    lag_s = info.get("master_last_io_seconds_ago")
    numbers: dict[str, float | None] = {
        "connect_seconds": found.phases.seconds["connect"],
        "query_seconds": found.phases.seconds["query"],
        "connections": clients,
        "connections_max": clients_max,
        "connections_used_ratio": clients / clients_max if clients is not None and clients_max else None,
        "memory_bytes": memory,
        "memory_max_bytes": memory_max or None,
        "memory_used_ratio": memory / memory_max if memory is not None and memory_max else None,
        "replicas": info.get("connected_slaves"),
        "is_replica": float(replica),
        "replication_lag_seconds": lag_s if replica and isinstance(lag_s, int) and lag_s >= 0 else None,
        "uptime_seconds": info.get("uptime_in_seconds"),
    }
    return {name: float(value) for name, value in numbers.items() if isinstance(value, int | float)}


def _reason(said: str) -> str:
    lower = said.lower()
    return next((reason for reason, words in _SAID if any(word in lower for word in words)), "connect-failed")
