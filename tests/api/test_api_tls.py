"""The same side over TLS, with a real certificate."""

import datetime
import ssl

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from watchbill.errors import Permanent, UsageError
from watchbill_collector.api.application import create_application
from watchbill_collector.api.server import HttpServer, TlsFiles


@pytest.fixture
def tls(tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem")


async def test_it_serves_tls_and_cuts_off_who_speaks_something_else(serve, tls):
    served = await serve(tls=True)
    server = HttpServer(create_application(served.house), served.house, "127.0.0.1", 0, tls)
    await server.start()
    try:
        trusted = ssl.create_default_context(cafile=tls.certificate)
        async with httpx2.AsyncClient(verify=trusted, trust_env=False) as client:
            answer = await client.post(
                f"https://localhost:{server.port}/login", json={"token": "token-of-admin"}
            )
            assert answer.status_code == 200
            assert all("Secure" in cookie for cookie in answer.headers.get_list("set-cookie"))
            me = await client.get(f"https://localhost:{server.port}/api/watchbill/v1/me")
            assert me.json()["via"] == "session"
        async with httpx2.AsyncClient(trust_env=False) as client:
            with pytest.raises(httpx2.TransportError):
                await client.get(f"http://localhost:{server.port}/healthz")
    finally:
        await server.stop()


async def test_files_that_are_no_certificate_are_named(serve, tls, tmp_path):
    served = await serve()
    (tmp_path / "cert.pem").write_text("nothing of the kind\n")
    server = HttpServer(create_application(served.house), served.house, "127.0.0.1", 0, tls)
    with pytest.raises(UsageError, match=r"cert\.pem"):
        await server.start()


async def test_an_address_that_is_taken_is_named(serve):
    served = await serve()
    second = HttpServer(create_application(served.house), served.house, "127.0.0.1", served.server.port)
    with pytest.raises(Permanent, match=f"127.0.0.1:{served.server.port} cannot be used"):
        await second.start()
