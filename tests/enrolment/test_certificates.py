"""Hostile certificates and signing requests, made with the authority's own key where that is the attack."""

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from watchbill.clock import ManualClock, SystemClock
from watchbill.errors import ConfigError, Unreadable
from watchbill.identity import IdentityRefused, RefusalReason
from watchbill_agent import identity_keys
from watchbill_collector.pki import (
    Authority,
    Lifetimes,
    ServerCertificate,
    SigningKeys,
    read_peer,
    read_request,
)
from watchbill_collector.pki.keys import signature_is_right

URI = "spiffe://watchbill/main/agent/c83d89b0-e8c7-4a9f-b76b-15dd26a9c425"
NOW = SystemClock().wall_ms()
DAY_MS = 86_400_000


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path, "main", NOW)


def _certificate(
    authority: Authority,
    *,
    uris: Sequence[str] = (URI,),
    names: Sequence[str] = (),
    purposes: Sequence[x509.ObjectIdentifier] = (ExtendedKeyUsageOID.CLIENT_AUTH,),
    ca: bool = False,
    days: tuple[float, float] = (-1, 1),
) -> bytes:
    day = datetime.timedelta(days=1)
    now = datetime.datetime.fromtimestamp(NOW / 1000, datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(authority.certificate.subject)
        .public_key(ec.generate_private_key(ec.SECP256R1()).public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + days[0] * day)
        .not_valid_after(now + days[1] * day)
        .add_extension(x509.BasicConstraints(ca, None), True)
    )
    general: list[x509.GeneralName] = [x509.UniformResourceIdentifier(one) for one in uris]
    general += [x509.DNSName(one) for one in names]
    if general:
        builder = builder.add_extension(x509.SubjectAlternativeName(general), False)
    if purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), False)
    return builder.sign(authority._key, hashes.SHA256()).public_bytes(Encoding.PEM)


def test_a_right_certificate_is_read(authority: Authority) -> None:
    assert read_peer(_certificate(authority), "main", NOW).agent_id in URI


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"days": (-3, -1)}, "expired"),
        ({"days": (1, 2)}, "not valid yet"),
        ({"purposes": [ExtendedKeyUsageOID.SERVER_AUTH]}, "not for an agent"),
        (
            {"purposes": [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]},
            "not for an agent",
        ),
        ({"purposes": []}, "missing"),
        ({"uris": [URI, URI.replace("c8", "c9")]}, "more than one name"),
        ({"uris": [URI], "names": ["web01"]}, "more than one name"),
        ({"uris": [], "names": ["web01"]}, "more than one name, or none"),
        ({"uris": []}, "missing"),
        ({"uris": [URI.replace("main", "other")]}, "for site other"),
        ({"uris": ["https://example.org/"]}, "not an agent's name"),
        ({"uris": [URI + "/../x"]}, "not an agent's name"),
        ({"ca": True}, "not for an agent"),
    ],
)
def test_a_wrong_certificate_of_our_own_authority_is_refused(
    authority: Authority, wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(IdentityRefused, match=said) as caught:
        read_peer(_certificate(authority, **wrong), "main", NOW)
    assert caught.value.reason is RefusalReason.CERTIFICATE


def test_the_authority_itself_is_no_agent(authority: Authority) -> None:
    with pytest.raises(IdentityRefused):
        read_peer(authority.pem, "main", NOW)


@pytest.mark.parametrize(
    "garbage", [b"", b"x", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"x" * 10**6]
)
def test_what_is_no_certificate_is_refused(garbage: bytes) -> None:
    with pytest.raises(IdentityRefused):
        read_peer(garbage, "main", NOW)


# ---------------------------------------------------------------- requests


def _request(key: Any, extensions: Sequence[x509.ExtensionType] = (), name: str = "") -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    for one in extensions:
        builder = builder.add_extension(one, False)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)


def test_a_request_with_a_p256_key_is_read() -> None:
    key = identity_keys.new_key()
    assert read_request(_request(key)).public_key == identity_keys.public_der(key)


@pytest.mark.parametrize(
    ("key", "got"),
    [
        (rsa.generate_private_key(65537, 2048), "RSA"),
        (ec.generate_private_key(ec.SECP384R1()), "secp384r1"),
        (ec.generate_private_key(ec.SECP256K1()), "secp256k1"),
        (ed25519.Ed25519PrivateKey.generate(), "Ed25519"),
    ],
)
def test_other_kinds_of_keys_are_named_and_refused(key: Any, got: str) -> None:
    with pytest.raises(IdentityRefused, match=f"{got}.* wanted ECDSA P-256"):
        read_request(_request(key))


@pytest.mark.parametrize(
    "extension",
    [
        x509.SubjectAlternativeName([x509.UniformResourceIdentifier(URI)]),
        x509.SubjectAlternativeName([x509.DNSName("collector")]),
        x509.BasicConstraints(ca=True, path_length=None),
    ],
)
def test_a_request_that_asks_for_names_or_powers_is_refused(extension: x509.ExtensionType) -> None:
    with pytest.raises(IdentityRefused, match="names are given by the collector"):
        read_request(_request(identity_keys.new_key(), [extension]))


def test_a_request_in_somebodys_name_is_refused() -> None:
    with pytest.raises(IdentityRefused, match="names are given by the collector"):
        read_request(_request(identity_keys.new_key(), name="web01"))


@pytest.mark.parametrize("attempt", range(8))
def test_no_changed_or_cut_request_passes(attempt: int) -> None:
    # Whether a changed bit matters depends on the key and on the signature, so there are several of each.
    good = identity_keys.signing_request(identity_keys.new_key())
    for cut in range(len(good)):
        with pytest.raises(IdentityRefused):
            read_request(good[:cut])
    passed = 0
    for place in range(len(good)):
        bad = bytearray(good)
        bad[place] ^= 0x01
        try:
            read_request(bytes(bad))
            passed += 1
        except IdentityRefused:
            pass
    assert passed == 0
    with pytest.raises(IdentityRefused):
        read_request(good + b"\x00")
    with pytest.raises(IdentityRefused):
        read_request(b"x" * 10**6)


@pytest.mark.parametrize(
    ("key", "signature"),
    [
        (b"", b""),
        (bytes(32), bytes(64)),
        (bytes([1] + [0] * 31), bytes(64)),
        (b"x" * 31, bytes(64)),
        (b"x" * 32, b""),
    ],
)
def test_bad_points_and_lengths_are_simply_wrong(key: bytes, signature: bytes) -> None:
    assert not signature_is_right(key, signature, b"message")


# ---------------------------------------------------------------- the collector's own files


def test_a_server_certificate_with_an_rsa_key_is_refused_with_the_reason(
    tmp_path: Path, authority: Authority
) -> None:
    key = rsa.generate_private_key(65537, 2048)
    path = tmp_path / "server.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + authority.pem)
    path.chmod(0o600)
    with pytest.raises(Unreadable, match=r"got RSA, wanted ECDSA P-256.*TLS 1\.2"):
        ServerCertificate(tmp_path, authority, Lifetimes()).refresh(["localhost"], NOW)


def test_the_server_certificate_is_remade_when_names_change_or_its_end_is_near(
    tmp_path: Path, authority: Authority
) -> None:
    def refresh(names: Sequence[str], days: float = 0) -> bool:
        return ServerCertificate(tmp_path, authority, Lifetimes()).refresh(names, NOW + round(days * DAY_MS))

    assert refresh(["A.example", "127.0.0.1", "2001:DB8:0::1"])
    assert not refresh(["127.0.0.1", "2001:db8::1", "a.example"], 59)
    assert refresh(["127.0.0.1", "2001:db8::1"])
    assert not refresh(["127.0.0.1", "2001:db8::1"], 59)
    assert refresh(["127.0.0.1", "2001:db8::1"], 61)
    assert refresh(["127.0.0.1", "2001:db8::1"], -365), "a clock set back makes it not valid yet"
    leaf = x509.load_pem_x509_certificate((tmp_path / "server.pem").read_bytes())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address("127.0.0.1"),
        ipaddress.ip_address("2001:db8::1"),
    ]


@pytest.mark.parametrize(
    "names", [[], [""], ["a b"], ["*.example"], ["x" * 300], ["a", "bü"], ["a\n"], ["a"] * 65]
)
def test_names_that_no_certificate_can_carry_are_named(
    tmp_path: Path, authority: Authority, names: list[str]
) -> None:
    with pytest.raises(ConfigError, match="names: got"):
        ServerCertificate(tmp_path, authority, Lifetimes()).refresh(names, NOW)


@pytest.mark.parametrize("file", ["ca.key", "envelope.key", "command.key", "server.pem"])
def test_a_key_that_others_can_read_is_not_used(tmp_path: Path, authority: Authority, file: str) -> None:
    SigningKeys.create(tmp_path)
    ServerCertificate(tmp_path, authority, Lifetimes()).refresh(["localhost"], NOW)
    (tmp_path / file).chmod(0o640)
    with pytest.raises(Unreadable, match="chmod 600"):
        _open_all(tmp_path)


@pytest.mark.parametrize("file", ["ca.key", "ca.pem", "envelope.key", "command.key", "server.pem"])
@pytest.mark.parametrize("content", [b"", b"garbage\n", b"\xff\xfe" * 100, b"x" * 10**6])
def test_a_damaged_key_file_is_named(tmp_path: Path, authority: Authority, file: str, content: bytes) -> None:
    SigningKeys.create(tmp_path)
    ServerCertificate(tmp_path, authority, Lifetimes()).refresh(["localhost"], NOW)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(Unreadable, match=file):
        _open_all(tmp_path)


def _open_all(place: Path) -> None:
    authority = Authority.load(place)
    SigningKeys.load(place)
    ServerCertificate(place, authority, Lifetimes()).refresh(["localhost"], ManualClock(NOW).wall_ms())


def test_the_certificate_of_another_key_is_not_taken_for_the_authority(
    tmp_path: Path, authority: Authority
) -> None:
    (tmp_path / "other").mkdir()
    Authority.create(tmp_path / "other", "main", NOW)
    (tmp_path / "ca.pem").write_bytes((tmp_path / "other" / "ca.pem").read_bytes())
    with pytest.raises(Unreadable, match=r"not the certificate of ca\.key"):
        Authority.load(tmp_path)
