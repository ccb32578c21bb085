"""What a collector's status means: findings, each with what to do about it. Pure: `(Status) -> findings`."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from watchbill_collector.api.status_port import Status

DISK_STOPS_RATIO = 0.10
"""History stops here."""
DISK_WARNS_RATIO = 0.20
CERTIFICATE_FAILS = timedelta(days=3)
CERTIFICATE_WARNS = timedelta(days=14)
COMMIT_WARNS_S = 5.0
COMMIT_FAILS_S = 30.0
RULES_WARN_S = 30.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `state` is ok, warn or fail; `fix` says what to do, empty when ok."""

    check: str
    state: str
    what: str
    fix: str = ""


def judge(status: Status) -> list[Finding]:
    """Everything that was looked at, worst first within each kind as it comes."""
    return [
        *_stores(status),
        *_disks(status),
        *_certificates(status),
        _commits(status),
        _clock(status),
        _rules(status),
        *_channels(status),
        *_roster(status),
        *_ports(status),
    ]


def _stores(status: Status) -> Iterator[Finding]:
    for store in status.stores:
        if store.ok:
            yield Finding("store", "ok", f"{store.name}: {size_text(store.bytes_used)} in {store.path}")
        else:
            yield Finding(
                "store",
                "fail",
                f"{store.name}: the last write to {store.path} failed: {store.detail}",
                f"df -h {store.path}; journalctl -u watchbill-collector",
            )


def _disks(status: Status) -> Iterator[Finding]:
    for disk in status.disks:
        ratio = disk.bytes_free / disk.bytes_total if disk.bytes_total else 0.0
        what = f"{disk.path}: {ratio:.0%} free ({size_text(disk.bytes_free)})"
        if ratio < DISK_STOPS_RATIO:
            yield Finding(
                "disk",
                "fail",
                f"{what}; history stops below {DISK_STOPS_RATIO:.0%}",
                "make room, or shorten [retention] in collector.toml",
            )
        elif ratio < DISK_WARNS_RATIO:
            yield Finding("disk", "warn", what, "make room, or set [retention] size in collector.toml")
        else:
            yield Finding("disk", "ok", what)


def _certificates(status: Status) -> Iterator[Finding]:
    for certificate in status.certificates:
        left = certificate.expires - status.now
        what = f"{certificate.name}: expires {certificate.expires:%Y-%m-%d %H:%M} UTC"
        if left < CERTIFICATE_FAILS:
            yield Finding("certificate", "fail", what, "watchbill-collector pki status")
        elif left < CERTIFICATE_WARNS:
            yield Finding("certificate", "warn", what, "watchbill-collector pki status")
        else:
            yield Finding("certificate", "ok", what)


def _commits(status: Status) -> Finding:
    what = (
        f"{status.commit_pending} batches wait to be committed, the oldest for {status.commit_oldest_s:.1f} s"
    )
    if status.commit_oldest_s >= COMMIT_FAILS_S:
        return Finding("commit", "fail", what, "the disk is too slow or full: iostat -x 1; df -h")
    if status.commit_oldest_s >= COMMIT_WARNS_S:
        return Finding("commit", "warn", what, "the disk is slow: iostat -x 1")
    return Finding("commit", "ok", what)


def _clock(status: Status) -> Finding:
    if status.clock_synchronised is False:
        return Finding("clock", "warn", "the kernel says the clock is not synchronised", "timedatectl status")
    if status.clock_synchronised is None:
        return Finding("clock", "ok", "the kernel does not say whether the clock is synchronised")
    return Finding("clock", "ok", "synchronised")


def _rules(status: Status) -> Finding:
    if status.rules_failing:
        return Finding(
            "rules",
            "fail",
            f"{status.rules_failing} rules fail to evaluate",
            "watchbill rules list --failing",
        )
    if status.rules_late_s > RULES_WARN_S:
        return Finding(
            "rules",
            "warn",
            f"the last evaluation was {status.rules_late_s:.0f} s late",
            "watchbill rules list",
        )
    return Finding("rules", "ok", "all rules evaluate")


def _channels(status: Status) -> Iterator[Finding]:
    for name, why in status.channels_failing.items():
        yield Finding("channel", "fail", f"{name}: {why}", f"watchbill notify test {name}")
    if status.outbox_unwritten:
        what = f"notices go out, and cannot be written down: {status.outbox_unwritten}"
        yield Finding("outbox", "fail", what, "df -h; journalctl -u watchbill-collector")


def _roster(status: Status) -> Iterator[Finding]:
    for name in status.roster_disabled:
        yield Finding(
            "roster",
            "warn",
            f"{name} is disabled and still on the roster: hosts count what he signs",
            "watchbill roster sign FILE --key KEY, without him; watchbill roster publish FILE.signed",
        )


def _ports(status: Status) -> Iterator[Finding]:
    for port in status.ports:
        yield Finding("port", "ok", f"{port.name} on {port.address}{' (TLS)' if port.tls else ''}")


def size_text(size: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024 or unit == "TiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("the last unit takes everything")
