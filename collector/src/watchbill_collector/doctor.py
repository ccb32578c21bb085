"""`watchbill-collector doctor`: looks at a collector from its own machine, whether it runs or not.

Each finding that is not ok ends with the next thing to type. `watchbill doctor` asks the running collector
instead; this works when that cannot be reached.
"""

import json
import os
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict

from watchbill.config import Address, Homes
from watchbill.errors import ConfigError, WatchbillError
from watchbill_collector.api.doctor import DISK_STOPS_RATIO, DISK_WARNS_RATIO, Finding
from watchbill_collector.config import CollectorConfig, load_config

ANSWER_WITHIN_S = 5.0
PROGRAM = "watchbill-collector"
MARKS = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}


def examine(homes: Homes, *, as_json: bool) -> int:
    """Look, print, and answer 0 when nothing fails."""
    findings = list(_findings(homes))
    if as_json:
        print(json.dumps({"findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        for finding in findings:
            print(f"{MARKS[finding.state]}  {finding.check:<12} {finding.what}")
            if finding.fix:
                print(f"      {'':<12} try: {finding.fix}")
    return 1 if any(finding.state == "fail" for finding in findings) else 0


def _findings(homes: Homes) -> Iterator[Finding]:
    try:
        config = load_config(homes)
    except ConfigError as exc:
        for problem in exc.problems:
            yield Finding("config", "fail", str(problem), f"edit {problem.file}")
        return
    yield Finding("config", "ok", f"site {config.site}, read from {homes.etc}")
    yield from _rules(homes, config)
    yield from _services(homes, config)
    yield from _channels(config)
    yield from _pki(homes)
    yield _disk(homes)
    for name, address in (("agents", config.grpc.listen), ("enrolment", config.grpc.enroll_listen)):
        yield _tls_port(name, address)
    yield from _mqtt(config)
    yield _http(config)


def _mqtt(config: CollectorConfig) -> Iterator[Finding]:
    """The broker: its own child, or another that answers."""
    from watchbill.topics import parse_mqtt_url
    from watchbill_collector.config import EMBEDDED
    from watchbill_collector.ingest.mosquitto import find, version

    mqtt = config.mqtt
    if not mqtt.broker:
        yield Finding("mqtt", "ok", 'off; broker = "embedded" in [mqtt] lets hosts come through a broker')
        return
    if mqtt.broker == EMBEDDED:
        program = find()
        assert program is not None, "judged with the configuration"
        try:
            found = ".".join(map(str, version(program)))
        except WatchbillError as exc:
            yield Finding("mqtt", "fail", str(exc), "apt-get install mosquitto")
            return
        yield Finding("mqtt", "ok", f"{program} is {found}")
        for name, address in (("mqtt agents", mqtt.listen), ("mqtt enrol", mqtt.enroll_listen)):
            yield _tls_port(name, address)
        return
    url = parse_mqtt_url(mqtt.broker)
    assert url is not None, "judged with the configuration"
    yield _tls_port("mqtt", Address(url.host, url.port))


def _rules(homes: Homes, config: CollectorConfig) -> Iterator[Finding]:
    from watchbill_collector.configured import check_rules, rule_sources

    try:
        check_rules(homes, config)
    except ConfigError as exc:
        for problem in exc.problems:
            yield Finding("rules", "fail", str(problem), f"{PROGRAM} rules check {problem.file}")
    else:
        yield Finding("rules", "ok", f"{len(rule_sources(homes, config))} files")


def _services(homes: Homes, config: CollectorConfig) -> Iterator[Finding]:
    from watchbill_collector.servicebook import read_services

    try:
        book = read_services(homes.etc, config.channel_names)
    except ConfigError as exc:
        for problem in exc.problems:
            yield Finding("services", "fail", str(problem), f"edit {problem.file}")
        return
    if book.services:
        yield Finding("services", "ok", f"{len(book.services)} services")


def _channels(config: CollectorConfig) -> Iterator[Finding]:
    from watchbill_collector.configured import channel_faults

    if not config.channel:
        yield Finding("channels", "warn", "no [[channel]]: alerts reach nobody", "see docs/notifications.md")
        return
    faults = channel_faults(config)
    for problem in faults:
        yield Finding("channels", "fail", str(problem), f"edit {problem.file}")
    if not faults:
        yield Finding("channels", "ok", f"{len(config.channel)} channels could send")


def _pki(homes: Homes) -> Iterator[Finding]:
    from watchbill_collector.init import open_pki
    from watchbill_collector.pki import Lifetimes

    try:
        pki = open_pki(homes.var, Lifetimes())
    except WatchbillError as exc:
        yield Finding("authority", "fail", str(exc), f"{PROGRAM} init")
        return
    days = (pki.authority.certificate.not_valid_after_utc.timestamp() - time.time()) / 86_400
    state = "ok" if days > 90 else "warn"
    yield Finding(
        "authority", state, f"valid for {days:.0f} days", "" if state == "ok" else f"{PROGRAM} pki roll"
    )


def _disk(homes: Homes) -> Finding:
    try:
        disk = os.statvfs(homes.var)
    except OSError as exc:
        return Finding("disk", "fail", f"{homes.var}: {exc.strerror}", f"{PROGRAM} init")
    share = disk.f_bavail / disk.f_blocks if disk.f_blocks else 0.0
    what = f"{homes.var}: {share:.0%} free"
    if share < DISK_STOPS_RATIO:
        return Finding("disk", "fail", f"{what}; history takes nothing more", f"df -h {homes.var}")
    if share < DISK_WARNS_RATIO:
        return Finding("disk", "warn", f"{what}; below 10% history stops", f"df -h {homes.var}")
    return Finding("disk", "ok", what)


def _reachable(address: Address) -> str:
    """Where to knock: a wildcard address is answered on loopback too."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104 - Not listening.


def _tls_port(name: str, address: Address) -> Finding:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    # Whether it is our certificate is for agents to judge; here the question is only whether TLS answers.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((_reachable(address), address.port), ANSWER_WITHIN_S) as plain,
            context.wrap_socket(plain) as secured,
        ):
            return Finding(name, "ok", f"{address} answers with {secured.version()}")
    except OSError as exc:
        fix = f"systemctl status {PROGRAM}; ss -ltnp"
        return Finding(name, "fail", f"{address} does not answer: {exc.strerror or exc}", fix)


def _http(config: CollectorConfig) -> Finding:
    http = config.http
    scheme = "https" if http.certificate else "http"
    host = _reachable(http.listen)
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{http.listen.port}/readyz"
    context = ssl.create_default_context() if http.certificate else None
    if context is not None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    # This very machine is asked: what the environment says of proxies is not for it.
    ways = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with urllib.request.build_opener(*ways).open(url, timeout=ANSWER_WITHIN_S):
            return Finding("http", "ok", f"{url} is ready")
    except urllib.error.HTTPError as exc:
        return Finding(
            "http",
            "warn",
            f"{url} says {exc.code}: {exc.read(200).decode('utf-8', 'replace').strip()}",
            "wait",
        )
    except OSError as exc:
        inner = getattr(exc, "reason", exc)
        why = getattr(inner, "strerror", None) or inner
        return Finding("http", "fail", f"{url} does not answer: {why}", f"systemctl status {PROGRAM}")
