"""Our collector under measurement: a home of its own, hosts registered, run as everybody runs it."""

import json
import re
import time
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

import watchbill_collector  # noqa: F401 - Sets gRPC's environment before anything imports grpc.
from benchmarks.processes import SERVER_CPU, Measured, free_ports, start, wait_for
from watchbill.clock import SystemClock
from watchbill.envelope import Sealer
from watchbill.identity import AgentIdentity, AgentUri
from watchbill_collector.cli.children import find_program
from watchbill_collector.init import initialise, open_pki
from watchbill_collector.pki import Lifetimes
from watchbill_collector.pki.authority import private_pem, public_der
from watchbill_collector.store import Store
from watchbill_collector.store.hosts import Certificate, Host, HostState, add_certificate, add_host

CONFIG = """\
address = "127.0.0.1"
[grpc]
listen = "127.0.0.1:{stream}"
enroll_listen = "127.0.0.1:{enroll}"
[http]
listen = "127.0.0.1:{http}"
anonymous_read = true
[rules]
stock = {stock}
"""
SEED = b"\1" * 32
"""Of all hosts' envelope keys: what is signed names its host anyway."""
CERTIFICATE_S = 14 * 86_400.0
_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")


class Collector:
    """A home with a collector in it. `start` and `stop` it as often as you like."""

    def __init__(self, home: Path, rules: Path | None, *, stock: bool = False, mqtt: bool = False) -> None:
        self.home = home
        self.log = home / "collector.log"
        self.stream_port, self.enroll_port, self.http_port = free_ports(3)
        self.process: Measured | None = None
        etc = home / "etc"
        etc.mkdir(parents=True)
        (etc / "collector.toml").write_text(
            CONFIG.format(
                stream=self.stream_port,
                enroll=self.enroll_port,
                http=self.http_port,
                stock=str(stock).lower(),
            )
        )
        if mqtt:
            self.mqtt_port, door = free_ports(2)
            more = (
                f'[mqtt]\nbroker = "embedded"\nlisten = "127.0.0.1:{self.mqtt_port}"\n'
                f'enroll_listen = "127.0.0.1:{door}"\n'
            )
            with open(etc / "collector.toml", "a") as file:
                file.write(more)
        if rules is not None:
            (etc / "rules.d").mkdir()
            (etc / "rules.d" / "bench.yml").write_text(rules.read_text())
        self.state = home / "var" / "collector"
        initialise(self.state, "main", ["127.0.0.1", "localhost"], SystemClock())

    @property
    def url(self) -> str:
        """Its API."""
        return f"http://127.0.0.1:{self.http_port}"

    def register(self, names: Iterable[str]) -> list[AgentIdentity]:
        """Hosts as enrolment leaves them: a row, a certificate of this authority, and what the host keeps."""
        pki = open_pki(self.state, Lifetimes())
        now_ms = SystemClock().wall_ms()
        made: list[AgentIdentity] = []
        rows: list[tuple[Host, Certificate]] = []
        for name in names:
            agent_id = str(uuid.uuid4())
            key = ec.generate_private_key(ec.SECP256R1())
            public = public_der(key.public_key())
            issued = pki.authority.issue_agent(AgentUri("main", agent_id), public, now_ms, CERTIFICATE_S)
            rows.append(
                (
                    Host(
                        agent_id=agent_id,
                        site="main",
                        instance=name,
                        state=HostState.ACTIVE,
                        labels={},
                        ephemeral=False,
                        public_key=public,
                        envelope_key=Sealer(SEED).public_key,
                        hostname=name,
                        agent_version="0",
                        address="127.0.0.1",
                        enrolled_ms=now_ms,
                        changed_ms=now_ms,
                    ),
                    Certificate(
                        serial=issued.serial,
                        agent_id=agent_id,
                        public_key=public,
                        key_sha256=bytes.fromhex(uuid.UUID(agent_id).hex) * 2,
                        csr_sha256=bytes(32),
                        how="enrol",
                        issued_ms=now_ms,
                        not_before_ms=issued.not_before_ms,
                        not_after_ms=issued.not_after_ms,
                        der=issued.der,
                    ),
                )
            )
            own = self._identity(name, agent_id, key, issued.der, issued.not_after_ms, pki.authority.pem)
            made.append(replace(own, collector_envelope_key=bytes(pki.keys.envelope.verify_key)))
        with Store.open(self.state, "main") as store:

            def work(connection: Any) -> None:
                for host, certificate in rows:
                    add_host(connection, host)
                    add_certificate(connection, "main", certificate)

            store.write_blocking(work)
        return made

    def _identity(
        self,
        name: str,
        agent_id: str,
        key: ec.EllipticCurvePrivateKey,
        der: bytes,
        not_after_ms: int,
        trust_pem: bytes,
    ) -> AgentIdentity:
        from cryptography import x509

        now_ms = SystemClock().wall_ms()
        chain = x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
        return AgentIdentity(
            agent_id=agent_id,
            instance=name,
            site="main",
            labels={},
            key_pem=private_pem(key),
            chain_pem=chain,
            trust_pem=trust_pem,
            not_before_ms=now_ms,
            not_after_ms=not_after_ms,
            stream_endpoint=f"127.0.0.1:{self.stream_port}",
            enrol_endpoint=f"127.0.0.1:{self.enroll_port}",
            envelope_seed=SEED,
            collector_envelope_key=bytes(32),
            command_key=bytes(32),
            token_id="bench",
            enrolled_ms=now_ms,
        )

    # ------------------------------------------------------------ running

    def start(self, cpu: int | None = SERVER_CPU, env: dict[str, str] | None = None) -> Measured:
        """Run it until it is ready."""
        program = find_program("watchbill-collector")
        assert program is not None, "scripts/setup installs it"
        self.process = start([program, "run", "--home", str(self.home)], self.log, cpu, env)
        try:
            wait_for(f"{self.url}/readyz", self.process, self.log)
        except BaseException:
            self.stop()
            raise
        return self.process

    def stop(self) -> None:
        """End it in order."""
        if self.process is not None:
            self.process.stop()
            self.process = None

    # ------------------------------------------------------------ asking

    def get(self, path: str, **parameters: str) -> Any:
        """The `data` of a Prometheus API answer."""
        query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        with urllib.request.urlopen(f"{self.url}{path}{query}", timeout=120) as answer:
            return json.load(answer)["data"]

    def firing(self) -> set[tuple[str, str]]:
        """Which alerts fire now: rule and instance."""
        return {
            (alert["labels"]["alertname"], alert["labels"].get("instance", ""))
            for alert in self.get("/api/v1/alerts")["alerts"]
            if alert["state"] == "firing"
        }

    def metrics(self) -> dict[str, float]:
        """Its own metrics; those with labels under `name{labels}`."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        found: dict[str, float] = {}
        for line in text.splitlines():
            parsed = _SAMPLE.match(line)
            if parsed is not None:
                name, labels, value = parsed.groups()
                found[f"{name}{{{labels}}}" if labels else name] = float(value)
        return found

    def wait_until(self, metric: str, least: float, seconds: float) -> float:
        """Wait until a metric of its own is at least so much; the value. Fails when that takes too long."""
        until = time.monotonic() + seconds
        while (value := self.metrics().get(metric, 0.0)) < least:
            if time.monotonic() > until:
                raise RuntimeError(f"after {seconds:.0f} s {metric} is {value:g}, not {least:g}")
            time.sleep(0.2)
        return value


def write_identities(path: Path, identities: Sequence[AgentIdentity]) -> None:
    """For the process that plays these hosts."""
    path.touch(0o600)
    path.write_bytes(msgspec.json.encode(list(identities)))


def read_identities(path: Path) -> list[AgentIdentity]:
    """What `write_identities` wrote."""
    return msgspec.json.decode(path.read_bytes(), type=list[AgentIdentity])
