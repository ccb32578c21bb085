"""Whoever can reach the ports without being enrolled: refused, no log flooded, no agent disturbed."""

import base64
import contextlib
import json
import os
import socket
import ssl
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(120)

SLOW_CONNECTIONS = 80
HANDSHAKES = 150
"""Of each kind at each port."""
FILES_MORE_MAX = 20
"""Connections that may still be closing."""
LINES_MAX = 20
MIB = 1 << 20
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


@pytest.fixture(scope="module")
def collector(shared_house):
    return shared_house.collector("[rules]\nstock = false\n")


@pytest.fixture(scope="module")
def agent(shared_house, collector):
    return shared_house.agent(collector, "web1")


@pytest.fixture(scope="module")
def stranger(shared_house):
    """A host of another collector, whose authority is another: no template."""
    house = type(shared_house)()
    try:
        other = house.collector("[rules]\nstock = false\n")
        yield house.enrolled(other, "stranger")
    finally:
        house.close()


@pytest.fixture(autouse=True)
def nobody_is_disturbed(collector, agent, until):
    """After every test: the same session, new samples, no gap, a short log, bounded memory."""
    before = collector.running.resident_bytes()
    yield
    count = len(collector.raw('node_load1{instance="web1"}', 600))
    until(lambda: len(collector.raw('node_load1{instance="web1"}', 600)) > count, "samples go on coming")
    assert collector.losses("web1") == []
    assert agent.status()["link"]["sessions"] == 1
    assert collector.said.count("\n") < LINES_MAX, collector.said
    assert collector.running.resident_bytes() - before < 50 * MIB


def client(certificate=None):
    """A client that believes any server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if certificate is not None:
        context.load_cert_chain(certificate)
    return context


def certificate_of(agent, directory):
    """The agent's certificate and key as one file, for other tools."""
    identity = json.loads((agent.state / "identity.json").read_bytes())
    path = directory / f"{agent.name}.pem"
    path.write_bytes(base64.b64decode(identity["chain_pem"]) + base64.b64decode(identity["key_pem"]))
    return path


def is_taken(port, context):
    """Whether the port takes this client: its handshake, and an answer to the first bytes of HTTP/2."""
    try:
        with (
            socket.create_connection(("127.0.0.1", port), 10) as plain,
            context.wrap_socket(plain) as secured,
        ):
            # With TLS 1.3 a client hears that it was refused only when it reads.
            secured.sendall(PREFACE + SETTINGS)
            return secured.recv(9) != b""
    except OSError:
        return False


def open_files(daemon):
    """How many descriptors it has open."""
    return sum(1 for _ in Path(f"/proc/{daemon.running.pid}/fd").iterdir())


def test_garbage_on_every_port_is_dropped(collector):
    pieces = (b"\0" * 1000, os.urandom(5000), b"GET / HTTP/1.1\r\n" + b"a" * 70_000, PREFACE, b"\x16\x03\x01")
    for port in collector.ports.values():
        for garbage in pieces:
            with (
                socket.create_connection(("127.0.0.1", port), 10) as connection,
                contextlib.suppress(OSError),
            ):
                connection.sendall(garbage)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65_536):
                    pass


def test_an_enrolled_client_speaks_tls_1_3_and_nothing_less(shared_house, collector, agent):
    file = certificate_of(agent, shared_house.root)
    for port in ("stream", "enroll"):
        context = client(file)
        assert is_taken(collector.ports[port], context), port
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        assert not is_taken(collector.ports[port], context), port


@pytest.mark.real("openssl")
def test_openssl_gets_no_tls_1_2_either(shared_house, collector, agent):
    file = str(certificate_of(agent, shared_house.root))
    for port in ("stream", "enroll"):
        where = f"127.0.0.1:{collector.ports[port]}"
        command = ["openssl", "s_client", "-connect", where, "-alpn", "h2", "-cert", file, "-key", file]
        good = shared_house.run([*command, "-tls1_3"])
        assert "TLSv1.3" in good.out, good
        bad = shared_house.run([*command, "-tls1_2"])
        assert bad.code != 0
        assert "Cipher is (NONE)" in bad.out, bad


def test_without_a_certificate_of_this_authority_nobody_streams(shared_house, collector, stranger):
    assert not is_taken(collector.ports["stream"], client())
    foreign = client(certificate_of(stranger, shared_house.root))
    assert not is_taken(collector.ports["stream"], foreign)


def test_an_agent_that_was_sent_to_another_authority_names_it(collector, stranger, until):
    (stranger.etc / "agent.toml").write_text(f'collector = "127.0.0.1:{collector.ports["stream"]}"\n')
    doctor = stranger.command("doctor")
    assert doctor.code == 1
    assert "wrong-ca" in doctor.out
    assert "next: check collector in agent.toml" in doctor.out
    stranger.start()
    until(lambda: "no link to the collector (wrong-ca)" in stranger.said, "the agent says why")
    assert stranger.stop() == 0
    assert "Traceback" not in stranger.said


def test_many_failed_handshakes_write_no_log_and_keep_nothing(shared_house, collector, stranger):
    old = client()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    foreign = client(certificate_of(stranger, shared_house.root))
    said, files = collector.said, open_files(collector)
    for port in ("stream", "enroll"):
        for _ in range(HANDSHAKES):
            with socket.create_connection(("127.0.0.1", collector.ports[port]), 10) as connection:
                connection.sendall(os.urandom(200))
            assert not is_taken(collector.ports[port], old)
    for _ in range(HANDSHAKES):
        assert not is_taken(collector.ports["stream"], client())
        assert not is_taken(collector.ports["stream"], foreign)
    assert collector.said == said
    assert open_files(collector) <= files + FILES_MORE_MAX


def test_those_who_connect_and_say_nothing_keep_nobody_out(shared_house, collector, stranger):
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    request = b"POST /api/v1/query HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n"
    first_bytes = {"stream": hello, "enroll": hello, "http": request}
    with contextlib.ExitStack() as stack:
        for name, port in collector.ports.items():
            for number in range(SLOW_CONNECTIONS):
                slow = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
                if number % 2:
                    slow.sendall(first_bytes[name])
        assert is_taken(collector.ports["stream"], client(shared_house.root / "web1.pem"))
        newcomer = shared_house.agent(collector, "newcomer")
        assert newcomer.stop() == 0
        assert collector.ask("GET", "/readyz").status == 200
