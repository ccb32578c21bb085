"""Why does this host not report? Looks at everything between the files here and the collector, in that order.

Each finding says what is so and, when it is wrong, what to type next. It needs no running agent; when one
runs, what that one knows is among the findings. Python's gRPC tells nobody why a handshake failed, so the
connection is tried here step by step: name, TCP, TLS with this host's certificate.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watchbill.clock import SystemClock
from watchbill.config import Homes
from watchbill.errors import ConfigError, Refused, Unreachable, WatchbillError
from watchbill.files import Lock
from watchbill.identity import AgentIdentity, IdentityFile, parse_endpoint
from watchbill_agent.backups.present import load_jobs
from watchbill_agent.checks.present import any_checks
from watchbill_agent.checks.trees import Trees
from watchbill_agent.config import AgentConfig, load_config
from watchbill_agent.question import SOCKET_NAME, ask
from watchbill_agent.true_time import TrueTime

if TYPE_CHECKING:
    from watchbill.protocol.frames import End

CONNECT_TIMEOUT_S = 5.0
SKEW_S_MAX = 5.0
EXPIRES_SOON_S = 24 * 3600
FREE_BYTES_MIN = 16 * 1024 * 1024
PROBLEMS_SHOWN_MAX = 5
CHECKS_SHOWN_MAX = 20
"""Checks that are told one by one."""
BACKUPS_SHOWN_MAX = 20
"""Repositories that are told one by one."""
_SEEN = ("", "ok", "running")
"""Outcomes of a look that nothing has to be done about; "" is none yet."""


class Verdict(StrEnum):
    """How a finding is."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `next` is what to type; empty when nothing is wrong."""

    check: str
    verdict: Verdict
    text: str
    next: str = ""


def _ok(check: str, text: str) -> Finding:
    return Finding(check, Verdict.OK, text)


def _warning(check: str, text: str, next_: str) -> Finding:
    return Finding(check, Verdict.WARNING, text, next_)


def _failed(check: str, text: str, next_: str) -> Finding:
    return Finding(check, Verdict.FAILED, text, next_)


def _unusable(check: str, exc: WatchbillError) -> Finding:
    """Files that nobody can go by, or that nobody could read."""
    if not isinstance(exc, ConfigError):
        return _failed(check, str(exc), "watchbill-agent check-config")
    shown = "; ".join(str(problem) for problem in exc.problems[:PROBLEMS_SHOWN_MAX])
    return _failed(check, shown, "correct the file, then: watchbill-agent check-config")


def examine(homes: Homes) -> Iterator[Finding]:
    """Every finding, one after the other; what depends on something broken is left out."""
    config = None
    try:
        config = load_config(homes)
        yield _ok("config", f"{homes.etc}/agent.toml and agent.d/ can be used")
    except ConfigError as exc:
        yield _unusable("config", exc)
    yield _state_directory(homes)
    identity, finding = _identity(homes.var if config is None else config.identity_home(homes))
    yield finding
    if config is not None:
        yield _kernel_files(config)
        yield from _samplers(config)
    if identity is not None:
        home = homes.var if config is None else config.identity_home(homes)
        true_time = TrueTime(home, SystemClock(), identity.not_before_ms)
        if config is not None:
            yield from _collector(config, identity, homes.var / "agent.lock", true_time)
        yield _certificate(identity, _now_ms(homes, true_time))
    yield from _running(homes)
    yield from _backups(homes)
    if config is not None:
        yield from _checks(homes, config)
    yield from _runner(homes)


def _state_directory(homes: Homes) -> Finding:
    check, path = "state", homes.var
    try:
        there = path.is_dir()
    except OSError as exc:
        return _failed(check, f"{path}: {(exc.strerror or str(exc)).lower()}", _AS_ROOT)
    if not there:
        return _warning(check, f"{path} is not there yet", "watchbill-agent enroll --token-file FILE")
    if not os.access(path, os.W_OK | os.X_OK):
        return _failed(check, f"{path} cannot be written by uid {os.geteuid()}", f"ls -ld {path}")
    free_bytes = _free_bytes(path)
    if free_bytes is not None and free_bytes < FREE_BYTES_MIN:
        return _failed(check, f"{path} has {free_bytes} bytes left", f"df {path}")
    return _ok(check, f"{path} can be written")


def _free_bytes(path: os.PathLike[str]) -> int | None:
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def _identity(home: Path) -> tuple[AgentIdentity | None, Finding]:
    check = "identity"
    try:
        identity = IdentityFile(home).load()
    except WatchbillError as exc:
        return None, _failed(check, str(exc), f"ls -l {home}")
    if identity is None:
        text = "this host is not enrolled"
        return None, _failed(check, text, "watchbill-agent enroll --token-file FILE")
    return identity, _ok(check, f"{identity.instance} of site {identity.site}, agent {identity.agent_id}")


def _now_ms(homes: Homes, true_time: TrueTime) -> float:
    """The collector's time where it was learned, here or by the running agent; else this host's clock."""
    if true_time.bypass:
        return true_time.wall_ms()
    try:
        document: dict[str, Any] = ask(homes.run / SOCKET_NAME, "status")
        offset_s = document["link"].get("clock_offset_s")
    except WatchbillError:
        offset_s = None
    return true_time.wall_ms() if offset_s is None else time.time() * 1000 - offset_s * 1000


def _certificate(identity: AgentIdentity, now_ms: float) -> Finding:
    check = "certificate"
    left_s = (identity.not_after_ms - now_ms) / 1000
    if left_s <= 0:
        text = (
            f"expired {-left_s / 3600:.1f} h ago; the running agent renews it as long as the collector's "
            "configuration or this host's token allows, usually 30 days"
        )
        return _failed(check, text, "systemctl restart watchbill-agent, or enrol this host again")
    text = f"valid for another {left_s / 3600:.1f} h"
    if left_s < EXPIRES_SOON_S and now_ms > identity.renewal_due_ms():
        return _warning(check, f"{text}, and not renewed yet", "watchbill-agent status")
    return _ok(check, text)


def _kernel_files(config: AgentConfig) -> Finding:
    check = "procfs"
    for path in (config.procfs / "stat", config.procfs / "meminfo"):
        try:
            with open(path, "rb") as file:
                file.read(1)
        except OSError as exc:
            reason = (exc.strerror or str(exc)).lower()
            return _failed(
                check, f"{path}: {reason}", f'set procfs in agent.toml; is it mounted at "{path.parent}"?'
            )
    return _ok(check, f"{config.procfs} can be read")


def _samplers(config: AgentConfig) -> Iterator[Finding]:
    from watchbill_agent.sampling import prepare

    prepared = prepare(config, SystemClock())
    try:
        series = sum(len(r.layout.series) for one in prepared.rounds.values() for r in one.run())
        states = [state for one in prepared.rounds.values() for state in one.states.values()]
    finally:
        prepared.close_others(None)
    failing = [state for state in states if state.reason and not state.absent]
    for state in failing:
        hint = f'samplers.disable = ["{state.name}"] in agent.toml, or give it what it reads'
        yield _warning(f"sampler {state.name}", state.reason, hint)
    for state in states:
        if state.notice:
            yield _warning(f"sampler {state.name}", state.notice, f"[samplers.{state.name}] in agent.toml")
    if not failing:
        yield _ok("samplers", f"{len(states)} samplers read {series} series")


def _collector(
    config: AgentConfig, identity: AgentIdentity, lock: Path, true_time: TrueTime
) -> Iterator[Finding]:
    from watchbill.tls import Handshake, connect, diagnose
    from watchbill_agent.way import mqtt_url

    url = mqtt_url(config, identity)
    endpoint = (
        url.endpoint
        if url is not None
        else parse_endpoint(str(config.collector) if config.collector else identity.stream_endpoint)
    )
    via = " through the proxy" if config.proxy else ""
    try:
        connect(endpoint, config.proxy, CONNECT_TIMEOUT_S).close()
    except socket.gaierror as exc:
        text = f"{endpoint.host} is no name that can be looked up: {exc.strerror}"
        yield _failed("reach", text, f"getent hosts {endpoint.host}")
        return
    except (OSError, Unreachable, Refused) as exc:
        hint = "is the collector running there, and does a firewall let this host through?"
        if config.proxy:
            hint = f"is proxy in agent.toml right, and does it allow CONNECT to {endpoint}?"
        yield _failed("reach", f"{endpoint}{via}: {exc}", hint)
        return
    yield _ok("reach", f"{endpoint} takes connections{via}")
    if url is not None:
        yield _broker(config, identity, lock, true_time)
        if true_time.bypass:
            yield _wrong_clock(true_time)
        return
    diagnosis = diagnose(
        endpoint, identity.trust_pem, identity.chain_pem, identity.key_pem, config.proxy, CONNECT_TIMEOUT_S
    )
    if diagnosis.outcome is Handshake.OK:
        yield _ok("handshake", diagnosis.text)
        yield _admission(config, identity, true_time)
        return
    outcome = diagnosis.outcome
    if outcome is Handshake.CLOCK_SUSPECT:
        yield _admission(config, identity, true_time)
        if true_time.bypass:
            yield _wrong_clock(true_time)
        return
    if outcome is Handshake.CERTIFICATE_REFUSED and time.time() * 1000 > identity.not_after_ms:
        outcome = Handshake.CERTIFICATE_EXPIRED  # Some servers close without saying why.
    yield _failed("handshake", f"{outcome}: {diagnosis.text}", _HANDSHAKE_NEXT[outcome.name])


def _wrong_clock(true_time: TrueTime) -> Finding:
    off_s = (time.time() * 1000 - true_time.wall_ms()) / 1000
    words = f"this host's clock is {off_s:+.0f} s off; certificates are judged by the collector's signed time"
    return _warning("clock", words, "timedatectl")


def _admission(config: AgentConfig, identity: AgentIdentity, true_time: TrueTime) -> Finding:
    """Whether the collector lets this host in. A goodbye without a Hello asks just that; a Hello would take the
    place of a running agent's session.
    """
    import asyncio

    from watchbill.protocol.frames import EndReason
    from watchbill_agent.transports import LinkDown, LinkRefused

    check = "admission"
    try:
        end = asyncio.run(_knock(config, identity, true_time))
    except LinkRefused as exc:
        return _failed(check, f"{exc.reason}: {exc}", _ENROL_AGAIN)
    except LinkDown as exc:
        next_ = _HANDSHAKE_NEXT.get(exc.reason.replace("-", "_").upper(), _AGAIN)
        return _failed(check, f"{exc.reason}: {exc}", next_)
    if end is None:
        return _failed(check, "the collector gave no answer", _AGAIN)
    if end.reason is EndReason.SHUTDOWN:
        return _ok(check, "the collector lets this host in")
    reason = end.reason.name.lower().replace("_", "-")
    hint = f"watchbill hosts on the collector; then {_ENROL_AGAIN}" if end.reason.final else _AGAIN
    return _failed(check, f"{reason}: {end.detail}", hint)


async def _knock(config: AgentConfig, identity: AgentIdentity, true_time: TrueTime) -> "End | None":
    """The collector's answer; None when none came that makes sense. Raises LinkDown, LinkRefused."""
    import asyncio

    from watchbill.codec import decode_down, encode_bye
    from watchbill.errors import Unreadable
    from watchbill.protocol.frames import End
    from watchbill_agent.transports.over_grpc import GrpcTransport

    endpoint = str(config.collector) if config.collector is not None else ""
    transport = GrpcTransport(
        lambda: identity, SystemClock(), endpoint=endpoint, proxy=config.proxy, time=true_time
    )
    link = await transport.open()
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await link.send(encode_bye("doctor"))
            message = await link.receive()
            frame = None if message is None else decode_down(message)
    except (TimeoutError, Unreadable):
        return None
    finally:
        await link.close()
    return frame if isinstance(frame, End) else None


def _broker(config: AgentConfig, identity: AgentIdentity, lock: Path, true_time: TrueTime) -> Finding:
    """Whether the broker lets this host in and the collector behind it answers. A broker has one place for a host:
    when the agent runs, it is the agent's.
    """
    import asyncio

    from watchbill_agent.transports import LinkDown, LinkRefused

    check = "broker"
    try:
        Lock(lock).release()
    except Refused:
        return _ok(check, "not tried: the running agent has this host's place at the broker")
    except WatchbillError as exc:
        return _warning(check, str(exc), f"ls -l {lock.parent}")
    try:
        asyncio.run(_open_and_close(config, identity, true_time))
    except (LinkDown, LinkRefused) as exc:
        return _failed(check, f"{exc.reason}: {exc}", _AGAIN)
    return _ok(check, "the broker lets this host in, and the collector answers it")


async def _open_and_close(config: AgentConfig, identity: AgentIdentity, true_time: TrueTime) -> None:
    from watchbill_agent.transports.over_mqtt import MqttTransport
    from watchbill_agent.way import mqtt_options, mqtt_url

    url = mqtt_url(config, identity)
    assert url is not None, "asked before"
    transport = MqttTransport(
        lambda: identity, lambda: mqtt_options(config, url), SystemClock(), time=true_time
    )
    await (await transport.open()).close()


_AGAIN = "watchbill-agent doctor"
_AS_ROOT = "sudo watchbill-agent doctor"
_ENROL_AGAIN = "watchbill enroll create --name NAME on the collector, then watchbill-agent enroll here"
_HANDSHAKE_NEXT: dict[str, str] = {
    "UNREACHABLE": _AGAIN,
    "CLOCK_SUSPECT": "timedatectl",
    "WRONG_CA": f"check collector in agent.toml; if the collector was made anew: {_ENROL_AGAIN}",
    "WRONG_NAME": "set collector in agent.toml to a name the collector's certificate has",
    "CERTIFICATE_EXPIRED": f"systemctl restart watchbill-agent renews it; when it is too late: {_ENROL_AGAIN}",
    "SERVER_EXPIRED": "watchbill-collector doctor on the collector; it renews its certificate by itself",
    "CERTIFICATE_REFUSED": f"watchbill hosts on the collector: is it revoked? If so: {_ENROL_AGAIN}",
    "TLS": "check that collector in agent.toml is the collector's port 7443",
}


def _running(homes: Homes) -> Iterator[Finding]:
    check = "agent"
    try:
        document: dict[str, Any] = ask(homes.run / SOCKET_NAME, "status")
    except Unreachable as exc:
        yield _not_running(homes, exc)
        return
    except WatchbillError as exc:
        yield _failed(check, str(exc), "systemctl restart watchbill-agent")
        return
    link = document["link"]
    if link["state"] == "connected":
        yield _ok(check, f"running, connected to {link['collector']}")
    else:
        words = f"running, no link: {link.get('reason', link['state'])}: {link.get('detail', '')}"
        yield _warning(check, words, "journalctl -u watchbill-agent")
    offset_s = link.get("clock_offset_s")
    if offset_s is not None and abs(offset_s) > SKEW_S_MAX:
        words = (
            f"this host's clock is {offset_s:+.1f} s off the collector's; samples keep the collector's time"
        )
        yield _warning("clock", words, "timedatectl")
    elif offset_s is not None:
        yield _ok("clock", f"{offset_s:+.3f} s against the collector")
    if document["configuration"]["reload_error"]:
        words = "the last reload was refused; the agent runs on the configuration before it"
        yield _warning("reload", words, "watchbill-agent check-config")
    if document["renewal_error"]:
        words = f"the certificate was not renewed: {document['renewal_error']}"
        yield _warning("renewal", words, "watchbill-agent status, and look at the collector's port 7444")
    for loop in document["wedged"]:
        yield _failed("loops", f"the {loop} loop makes no progress", "systemctl restart watchbill-agent")
    if document["queue"]["error"]:
        words = f"the spool's disk takes nothing, records stay in memory: {document['queue']['error']}"
        yield _failed("spool", words, "df on the state directory; dmesg")
    elif document["queue"]["damaged"] or document["queue"]["quarantined_files"]:
        words = "the spool has damaged records or files that are not its own; they were counted and set aside"
        yield _warning("spool", words, "watchbill-agent spool verify")
    if document["queue"]["dropped_records"]:
        words = f"{document['queue']['dropped_records']} records were dropped while the collector was away"
        yield _warning("queue", words, "watchbill-agent gaps")


def _runner(homes: Homes) -> Iterator[Finding]:
    """Whether what root allows could be run. A host that allows nothing needs no runner, and reads nothing of it."""
    if not any((homes.etc / name).is_dir() for name in ("actions.d", "observe.d")):
        return
    from watchbill_agent.actions.health import look

    owner = 0 if homes.etc == Homes.resolve("agent", None, {}).etc else os.geteuid()
    found = look(homes, owner)
    if found is not None:
        yield _warning("runner", found.text, found.next) if found.next else _ok("runner", found.text)


def _checks(homes: Homes, config: AgentConfig) -> Iterator[Finding]:
    """Whether checks.d can be used, and which checks could not find anything out. Nothing on a host without checks;
    what is not well is for the collector to tell."""
    check = "checks"
    if not any_checks(homes.etc):
        return
    from watchbill_agent.checks.service import judge

    try:
        judged = judge(Trees(homes.etc, config.procfs, config.sysfs, config.rootfs))
    except WatchbillError as exc:
        yield _unusable(check, exc)
        return
    yield _ok(check, f"{len(judged.checks)} in checks.d can be used")
    try:
        document: dict[str, Any] = ask(homes.run / SOCKET_NAME, "checks")
    except WatchbillError:
        return  # What is wrong with the agent itself has been said.
    blind = [one for one in document["checks"] if one["verdict"] == "unknown"]
    for one in blind[:CHECKS_SHOWN_MAX]:
        why = ": ".join(filter(None, (one["reason"], one["detail"])))
        yield _warning(
            check, f"{one['check']} finds nothing out: {why}", f"watchbill-agent checks run {one['check']}"
        )


def _backups(homes: Homes) -> Iterator[Finding]:
    """Whether backups.d can be used, and what the running agent could not see. Nothing on a host without backups."""
    check = "backups"
    try:
        jobs = load_jobs(homes.etc)
    except WatchbillError as exc:
        yield _unusable(check, exc)
        return
    if not jobs:
        return
    yield _ok(check, f"{len(jobs)} in backups.d can be used")
    try:
        document: dict[str, Any] = ask(homes.run / SOCKET_NAME, "backups")
    except WatchbillError:
        return  # What is wrong with the agent itself has been said.
    bad = [one for one in document["repositories"] if one["outcome"] not in _SEEN]
    for one in bad[:BACKUPS_SHOWN_MAX]:
        where = one["job"] + (f", {one['copy']}" if one["copy"] else "")
        words = " ".join([f"{where}: {one['outcome']}, {one['reason']}.", *one["errors"][:1]])
        yield _warning(check, words, f"watchbill-agent backup look {one['job']}")
    if len(bad) > BACKUPS_SHOWN_MAX:
        yield _warning(
            check, f"{len(bad) - BACKUPS_SHOWN_MAX} more like these", "watchbill-agent backup list"
        )


def _not_running(homes: Homes, reason: Unreachable) -> Finding:
    start = "systemctl start watchbill-agent"
    lock = homes.var / "agent.lock"
    try:
        if not lock.exists():
            return _warning("agent", "not running", start)
    except OSError:
        return _warning("agent", f"nobody but its user and root can see whether it runs: {reason}", _AS_ROOT)
    try:
        Lock(lock).release()
    except Refused:
        return _warning("agent", f"running, but it cannot be asked: {reason}", _AS_ROOT)
    except WatchbillError as exc:
        return _warning("agent", str(exc), _AS_ROOT)
    return _warning("agent", "not running", start)


def as_documents(findings: list[Finding]) -> list[dict[str, str]]:
    """For --json."""
    return [{key: str(value) for key, value in asdict(finding).items()} for finding in findings]


def lines(finding: Finding, escape: Callable[[str], str]) -> Iterator[str]:
    """For people: the finding, and what to type next under it."""
    yield f"{finding.verdict:<8} {finding.check:<12} {escape(finding.text)}"
    if finding.next:
        yield f"{'':<8} {'':<12} next: {escape(finding.next)}"
