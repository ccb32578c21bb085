"""What 200 checks every 10 seconds cost the host that runs them, and how punctual they are, beside blackbox_exporter
asked for the same probes as often.

The targets are a real nginx, unbound and this machine's own address; the plugins' own CPU is not counted, as they are
the sysadmin's.
"""

import shutil
import subprocess
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from benchmarks.collector import Collector
from benchmarks.processes import Measured, free_ports, running, wait_for
from benchmarks.report import Report
from watchbill_collector.cli.children import find_program

NAME: Final = "bench"
EVERY_S: Final = 10
SETTLE_S: Final = 15.0
PROCESSES: Final = ("watchbill_agent.checks.child", "watchbill_agent.checks.answering")

NGINX_CONF: Final = """\
daemon off;
worker_processes 1;
pid {home}/nginx.pid;
error_log {home}/error.log;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path {home}/1; proxy_temp_path {home}/2; fastcgi_temp_path {home}/3;
  uwsgi_temp_path {home}/4; scgi_temp_path {home}/5;
  ssl_certificate {home}/cert.pem;
  ssl_certificate_key {home}/key.pem;
  server {{
    listen 127.0.0.1:{http};
    listen 127.0.0.1:{https} ssl;
    location / {{ default_type text/plain; return 200 "all is well\\n"; }}
  }}
}}
"""
UNBOUND_CONF: Final = """\
server:
  interface: 127.0.0.1@{dns}
  port: {dns}
  do-daemonize: no
  username: ""
  chroot: ""
  directory: "{home}"
  pidfile: ""
  use-syslog: no
  module-config: "iterator"
  local-zone: "bench.test." static
  local-data: "www.bench.test. A 192.0.2.1"
"""
BLACKBOX_YML: Final = """\
modules:
  http: {{ prober: http, timeout: 5s, http: {{ preferred_ip_protocol: ip4 }} }}
  https:
    prober: http
    timeout: 5s
    http: {{ preferred_ip_protocol: ip4, tls_config: {{ ca_file: {home}/cert.pem }} }}
  tcp: {{ prober: tcp, timeout: 5s, tcp: {{ preferred_ip_protocol: ip4 }} }}
  dns: {{ prober: dns, timeout: 5s, dns: {{ query_name: www.bench.test, query_type: A, preferred_ip_protocol: ip4 }} }}
  icmp: {{ prober: icmp, timeout: 5s, icmp: {{ preferred_ip_protocol: ip4 }} }}
"""


def run(*, quick: bool) -> Report:
    """CPU of all processes that look, memory, and how late a look began."""
    seconds = 20 if quick else 120
    report = Report("checks: 200 checks on one host, each every 10 s")
    with tempfile.TemporaryDirectory(prefix="wb-checks-") as scratch, ExitStack() as stack:
        targets = stack.enter_context(_targets(Path(scratch)))
        network = _network(targets)
        without = _agent(Path(scratch) / "without", "", seconds)
        probes = _agent(Path(scratch) / "probes", "".join(network), seconds)
        every = _agent(Path(scratch) / "every", "".join([*network, *_local()]), seconds)
        peer = _blackbox(Path(scratch), targets, seconds)
    report.add(
        "CPU of 200 checks", every.cpu_ms - without.cpu_ms, "ms/s", 50.0, "5 % of a core, what is allowed"
    )
    report.add(
        "CPU of the 160 over the network",
        probes.cpu_ms - without.cpu_ms,
        "ms/s",
        peer[0],
        "blackbox_exporter 0.23",
    )
    report.add(
        "RSS of the processes that look", every.rss_mib, "MiB", peer[1], "blackbox_exporter, 160 of them"
    )
    report.add(
        "RSS of the agent's own process", every.agent_rss_mib, "MiB", without.agent_rss_mib, "without checks"
    )
    report.add("latest look of all", every.late_s * 1000, "ms", 500.0, "what is allowed")
    report.add("looks that were late", every.late, "of all")
    report.notes += [
        "80 http of which 40 over TLS with the whole handshake, 40 tcp, 20 dns, 20 icmp, 20 plugins, 20 processes",
        f"checks that were not well at the end: {every.not_well:g} of 200",
        "the agent also delivers what they find, over gRPC and TLS; the exporter answers with text",
        "CPU of what plugins run is not counted; the start of their processes is",
    ]
    return report


class _Cost:
    """Of one agent. CPU in ms a second."""

    def __init__(
        self, cpu_ms: float, rss_mib: float, agent_rss_mib: float, late_s: float, late: float, not_well: float
    ) -> None:
        self.cpu_ms = cpu_ms
        self.rss_mib = rss_mib
        self.agent_rss_mib = agent_rss_mib
        self.late_s = late_s
        self.late = late
        self.not_well = not_well


class _Targets:
    """Where the targets are."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.http, self.https, self.dns = free_ports(3)


@contextmanager
def _targets(scratch: Path) -> Iterator[_Targets]:
    home = scratch / "targets"
    home.mkdir()
    targets = _Targets(home)
    ports = {"home": home, "http": targets.http, "https": targets.https, "dns": targets.dns}
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", str(home / "key.pem"), "-out", str(home / "cert.pem"), "-days", "30"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    (home / "nginx.conf").write_text(NGINX_CONF.format_map(ports))
    (home / "unbound.conf").write_text(UNBOUND_CONF.format_map(ports))
    with ExitStack() as stack:
        nginx = stack.enter_context(
            running([_program("nginx"), "-c", str(home / "nginx.conf")], home / "nginx.log", cpu=None)
        )
        stack.enter_context(
            running([_program("unbound"), "-c", str(home / "unbound.conf")], home / "unbound.log", cpu=None)
        )
        wait_for(f"http://127.0.0.1:{targets.http}/", nginx, home / "nginx.log")
        yield targets


def _program(name: str) -> str:
    found = shutil.which(name, path="/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin:/sbin:/bin")
    assert found is not None, f"{name} is installed"
    return found


def _network(targets: _Targets) -> list[str]:
    cert = targets.home / "cert.pem"
    http = f'url = "http://127.0.0.1:{targets.http}/"\n'
    https = f'url = "https://127.0.0.1:{targets.https}/"\nca_file = "{cert}"\n'
    tcp = f'address = "127.0.0.1:{targets.http}"\n'
    dns = f'servers = ["127.0.0.1:{targets.dns}"]\nquery_name = "www.bench.test"\n'
    icmp = 'target = "127.0.0.1"\ncount = 1\n'
    kinds = (("http", 40, http), ("http", 40, https), ("tcp", 40, tcp), ("dns", 20, dns), ("icmp", 20, icmp))
    return list(_tables(kinds))


def _local() -> list[str]:
    plugin = 'argv = ["/usr/lib/nagios/plugins/check_dummy", "0", "well"]\n'
    return list(_tables((("exec", 20, plugin), ("process", 20, 'comm = "nginx"\n'))))


def _tables(kinds: Sequence[tuple[str, int, str]]) -> Iterator[str]:
    for group, (kind, count, keys) in enumerate(kinds):
        for number in range(count):
            head = f'[[check]]\nname = "{kind}-{group}-{number}"\nkind = "{kind}"\n'
            yield f'{head}interval = "{EVERY_S}s"\ntimeout = "5s"\n{keys}'


def _agent(home: Path, checks: str, seconds: float) -> _Cost:
    program = find_program("watchbill-agent")
    assert program is not None, "scripts/setup installs it"
    collector = Collector(home, None)
    (identity,) = collector.register([NAME])
    collector.start(cpu=None)
    try:
        from watchbill.identity import IdentityFile

        state = home / "var" / "agent"
        state.mkdir(mode=0o700, parents=True)
        IdentityFile(state).save(identity)
        (home / "etc" / "agent.toml").write_text(f'interval = "{EVERY_S}s"\n')
        if checks:
            (home / "etc" / "checks.d").mkdir()
            (home / "etc" / "checks.d" / "bench.toml").write_text(checks)
        with running([program, "run", "--home", str(home)], home / "agent.log", cpu=None) as process:
            time.sleep(SETTLE_S)
            looking = list(_looking(process))
            before = sum(one.usage().cpu_s for one in looking)
            own_before = process.usage().cpu_s
            time.sleep(seconds)
            looking = list(_looking(process))
            spent_s = sum(one.usage().cpu_s for one in looking) - before + process.usage().cpu_s - own_before
            rss = sum(one.usage().rss_bytes for one in looking) / 2**20
            own_rss = process.usage().rss_bytes / 2**20
            time.sleep(EVERY_S)
            facts = [
                _asked(collector, query)
                for query in (
                    f"max(max_over_time(watchbill_agent_check_lateness_seconds[{seconds:.0f}s]))",
                    f"max(increase(watchbill_agent_check_late_total[{seconds:.0f}s]))",
                    "count(watchbill_check_status > 0)",
                )
            ]
            return _Cost(spent_s / seconds * 1000, rss, own_rss, facts[0], facts[1], facts[2])
    finally:
        collector.stop()


def _looking(agent: Measured) -> Iterator[Measured]:
    """The processes that look: those of the agent's family that are ours."""
    waiting = [agent.pid]
    while waiting:
        pid = waiting.pop()
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:
            continue
        for child in map(int, children):
            waiting.append(child)
            try:
                arguments = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(name.encode() in arguments for name in PROCESSES):
                yield _Alien(child)


class _Alien(Measured):
    """A process that somebody else started."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._pid


def _asked(collector: Collector, query: str) -> float:
    rows = collector.get("/api/v1/query", query=query)["result"]
    return float(rows[0]["value"][1]) if rows else 0.0


def _blackbox(scratch: Path, targets: _Targets, seconds: float) -> tuple[float | None, float | None]:
    """The same 160 probes, as often, one after the other over the interval."""
    if shutil.which("prometheus-blackbox-exporter") is None:
        return None, None
    (port,) = free_ports(1)
    config, log = scratch / "blackbox.yml", scratch / "blackbox.log"
    config.write_text(BLACKBOX_YML.format(home=targets.home))
    argv = [
        "prometheus-blackbox-exporter",
        f"--config.file={config}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    asks = [
        *[("http", f"http://127.0.0.1:{targets.http}/")] * 40,
        *[("https", f"https://127.0.0.1:{targets.https}/")] * 40,
        *[("tcp", f"127.0.0.1:{targets.http}")] * 40,
        *[("dns", f"127.0.0.1:{targets.dns}")] * 20,
        *[("icmp", "127.0.0.1")] * 20,
    ]
    urls = [
        f"http://127.0.0.1:{port}/probe?{urllib.parse.urlencode({'module': module, 'target': target})}"
        for module, target in asks
    ]
    with running(argv, log, cpu=None) as process:
        wait_for(f"http://127.0.0.1:{port}/", process, log)
        before = process.usage()
        until_s = time.monotonic() + seconds
        workers = [threading.Thread(target=_ask_for, args=(urls[place::8], until_s)) for place in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        after = process.usage()
    return after.since(before) / seconds * 1000, after.rss_bytes / 2**20


def _ask_for(urls: Sequence[str], until_s: float) -> None:
    """Each of these every EVERY_S, spread evenly."""
    start_s, number = time.monotonic(), 0
    while time.monotonic() < until_s:
        text = urllib.request.urlopen(urls[number % len(urls)], timeout=10).read()
        assert b"probe_success 1" in text, text[-300:]
        number += 1
        time.sleep(max(0.0, start_s + number * EVERY_S / len(urls) - time.monotonic()))
