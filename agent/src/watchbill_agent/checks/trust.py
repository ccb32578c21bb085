"""TLS of checks: what a file may say about it, contexts made once, what a server presented, and what is wrong with it.

One handshake tells all: it verifies, and when it fails the certificates that the server sent are still there to be
told of (`chain`), by the same object. The reasons are `tls-expired`, `tls-not-yet-valid`, `tls-self-signed`,
`tls-wrong-host`, `tls-untrusted`, `tls-not-spoken` (something else answers there), `tls-version`, `tls-refused` (an
alert of the server), `tls-failed`, `tls-expires-soon`, and UNKNOWN `tls-files` for files of ours.

OpenSSL names one fault of several: first what the chain ends in, then the host, then the dates.
"""

import hashlib
import ssl
import stat
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from watchbill.config import Duration, Wrong, option
from watchbill.config.convert import show_value
from watchbill_agent.checks.addresses import stamp
from watchbill_agent.checks.apart import READER
from watchbill_agent.checks.check import Failed, Samples, Verdict
from watchbill_agent.checks.connection import Connection, reason_of
from watchbill_agent.checks.probing import Findings, NetOptions, Phases, label_text
from watchbill_agent.checks.secret import read_secret, secret_path, secret_wanted
from watchbill_agent.reading import Family, MetricType, Series, labels

CONTEXTS_MAX: Final = 256
"""Kept; beyond, all are made again."""
FILE_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of a file of authorities or of a chain; those of all the world are 220 KiB. Larger ones are `tls-files`."""
CERTIFICATES_KNOWN_MAX: Final = 512
"""Read ones kept, so that a chain that stays costs nothing; beyond, all are read again."""
CHAIN_MAX: Final = 16
"""Certificates of one server that are looked at. OpenSSL refuses chains whose message is beyond 100 KiB."""
LABEL_BYTES_MAX: Final = 512
DAY_S: Final = 86_400
CERT_WARN_DEFAULT: Final = Duration(14 * DAY_S)
CERT_FAIL_DEFAULT: Final = Duration(3 * DAY_S)

_VERSIONS: Final = {
    "TLS10": ssl.TLSVersion.TLSv1,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}
_OLD: Final = ("TLS10", "TLS11")

# OpenSSL's X509_V_ERR_*.
_FAULTS: Final = {
    9: "tls-not-yet-valid",
    10: "tls-expired",
    18: "tls-self-signed",
    19: "tls-self-signed",
    62: "tls-wrong-host",
    64: "tls-wrong-host",
}
_NOT_SPOKEN: Final = frozenset(
    {
        "WRONG_VERSION_NUMBER",
        "HTTP_REQUEST",
        "HTTPS_PROXY_REQUEST",
        "UNEXPECTED_MESSAGE",
        "BAD_PACKET_LENGTH",
        "PACKET_LENGTH_TOO_LONG",
        "UNKNOWN_PROTOCOL",
        "RECORD_LAYER_FAILURE",
    }
)
_VERSION: Final = frozenset(
    {"UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "NO_PROTOCOLS_AVAILABLE", "VERSION_TOO_LOW"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsOptions(NetOptions):
    """What checks that speak TLS may say."""

    ca_file: Path | None = option(
        None,
        help="Authorities (PEM) that are trusted instead of the system's.",
        example='"/etc/ssl/own-ca.pem"',
    )
    cert_file: Path | None = option(None, help="A client certificate with its chain (PEM).")
    key_file: str = option(
        "", check=secret_wanted, help="Its key: a file that others may not read, or credential:NAME."
    )
    server_name: str = option(
        "", length_max=253, help="The name to ask for and to find in the certificate, where it is another."
    )
    insecure_skip_verify: bool = option(
        False,
        help="Believe any certificate. Anybody in between can answer for the server, and take what is sent.",
    )
    min_version: Literal["TLS10", "TLS11", "TLS12", "TLS13"] = option(
        "TLS12", help="The oldest TLS to speak."
    )
    cert_warn: Duration = option(CERT_WARN_DEFAULT, help="A chain that ends earlier is a warning.")
    cert_fail: Duration = option(CERT_FAIL_DEFAULT, help="A chain that ends earlier has failed.")

    def check(self) -> Iterator[Wrong]:
        """A certificate has a key, and a warning comes first."""
        yield from NetOptions.check(self)
        if self.key_file and self.cert_file is None:
            yield Wrong("cert_file", "nothing", "the certificate of key_file")
        if self.cert_file is not None and not self.key_file:
            yield Wrong("key_file", "nothing", "the key of cert_file")
        if self.cert_fail > self.cert_warn:
            yield Wrong(
                "cert_fail",
                show_value(self.cert_fail.to_config()),
                f"at most cert_warn, {self.cert_warn.to_config()}",
            )


# ---------------------------------------------------------------- contexts

_CONTEXTS: dict[tuple[object, ...], ssl.SSLContext] = {}
"""Of this process: those of checks that say the same of TLS are one, with one set of authorities in memory."""
_DEFAULT: Final = ssl.get_default_verify_paths()
_SYSTEM: Final = (Path(_DEFAULT.openssl_capath), Path(_DEFAULT.openssl_cafile))


async def context(options: TlsOptions, until_s: float, alpn: tuple[str, ...] = ()) -> ssl.SSLContext:
    """The context of these options; made again when a file has changed. Files of theirs that do not answer until this
    time of the loop's clock are left. Raises Failed (UNKNOWN, `tls-files`)."""
    key_file = secret_path(options.key_file) if options.key_file else None
    own = tuple(path for path in (options.ca_file, options.cert_file, key_file) if path)
    stamps = await READER.read(own, partial(_stamps, own), "tls-files", until_s) if own else ()
    if not options.ca_file:
        stamps += _stamps(_SYSTEM)
    what = (own, stamps, options.insecure_skip_verify, options.min_version, alpn)
    found = _CONTEXTS.get(what)
    if found is None:
        found = _bare(options, alpn)
        filling = partial(_fill, found, options, key_file)
        if own:
            await READER.read(own, filling, "tls-files", until_s)
        else:
            filling()
        if len(_CONTEXTS) >= CONTEXTS_MAX:
            _CONTEXTS.clear()
        _CONTEXTS[what] = found
    return found


def _stamps(files: tuple[Path, ...]) -> tuple[object, ...]:
    return tuple(stamp(path) for path in files)


def _bare(options: TlsOptions, alpn: tuple[str, ...]) -> ssl.SSLContext:
    """All that needs no file."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Old, and asked for.
        made.minimum_version = _VERSIONS[options.min_version]
    if options.min_version in _OLD:
        made.set_ciphers("DEFAULT:@SECLEVEL=0")  # OpenSSL 3 speaks the old ones at no other level.
    if alpn:
        made.set_alpn_protocols(list(alpn))
    if options.insecure_skip_verify:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    return made


def _fill(made: ssl.SSLContext, options: TlsOptions, key_file: Path | None) -> None:
    """What files say: authorities, and a certificate of ours."""
    doing = f"ca_file {options.ca_file}"
    try:
        if options.ca_file:
            _judge_file(options.ca_file)
            made.load_verify_locations(cafile=options.ca_file)
        else:
            # Not load_default_certs of a bundle: Debian's directory is looked up by name, one file for one handshake.
            made.set_default_verify_paths()
        if options.cert_file:
            doing = f"cert_file {options.cert_file} and its key"
            _judge_file(options.cert_file)
            read_secret(options.key_file)  # For its judgement: nobody else may read it.
            made.load_cert_chain(options.cert_file, key_file, password=_no_password)
    except (OSError, ValueError) as exc:
        why = reason_of(exc) if isinstance(exc, ssl.SSLError) else (getattr(exc, "strerror", "") or str(exc))
        raise Failed("tls-files", f"{doing}: {why.lower()}", verdict=Verdict.UNKNOWN) from exc


def _judge_file(path: Path) -> None:
    """OpenSSL opens what it is told to: a FIFO would hold up every check for ever. Raises OSError, ValueError."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is no regular file")
    if found.st_size > FILE_BYTES_MAX:
        raise ValueError(f"got {found.st_size} bytes, wanted at most {FILE_BYTES_MAX}")


def _no_password() -> str:
    raise ValueError("the key is encrypted, and nobody is there to be asked")


# ---------------------------------------------------------------- certificates


_INFO: Final = Family("probe_ssl_last_chain_info", MetricType.GAUGE, "The certificate of the server.")


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is told of one, for labels."""

    not_after_s: float
    subject: str
    issuer: str
    names: str
    series: Series


@dataclass(frozen=True, slots=True)
class Presented:
    """What a handshake told. `verified` is the chain with its root, empty when it was not verified."""

    chain: tuple[Certificate, ...]
    verified: tuple[Certificate, ...]
    version: str
    cipher: str

    @property
    def ends_s(self) -> float:
        """When the first of the chain that the server sent ends."""
        return min((one.not_after_s for one in self.chain), default=0.0)


_KNOWN: dict[bytes, Certificate] = {}
"""Certificates by their bytes, of this process."""


def presented(secured: ssl.SSLSocket, *, verified: bool) -> Presented:
    """What the server sent, also in a handshake that failed."""
    inner = secured._sslobj  # type: ignore[attr-defined]  # noqa: SLF001 - Public, as bytes, from Python 3.13 on.
    if inner is None:
        return Presented((), (), "", "")
    cipher = inner.cipher()
    return Presented(
        tuple(_certificate(one) for one in (inner.get_unverified_chain() or ())[:CHAIN_MAX]),
        tuple(_certificate(one) for one in (inner.get_verified_chain() or ())[:CHAIN_MAX])
        if verified
        else (),
        _version(inner.version()),
        cipher[0] if cipher else "",
    )


def _certificate(one: Any) -> Certificate:
    content = bytes(one.public_bytes(2))  # ENCODING_DER
    known = _KNOWN.get(content)
    if known is None:
        if len(_KNOWN) >= CERTIFICATES_KNOWN_MAX:
            _KNOWN.clear()
        known = _KNOWN[content] = _read(one, content)
    return known


def _read(one: Any, content: bytes) -> Certificate:
    try:
        info = one.get_info()
        ends_s = float(ssl.cert_time_to_seconds(info["notAfter"]))
    except (ValueError, KeyError, TypeError, ssl.SSLError):
        info, ends_s = {}, 0.0  # Nothing that OpenSSL can say of it: it holds no more.
    said = {
        "subject": _name(info.get("subject", ())),
        "issuer": _name(info.get("issuer", ())),
        "subjectalternative": ",".join(str(value) for _, value in info.get("subjectAltName", ())),
        "serialnumber": str(info.get("serialNumber", "")).lower(),
        "fingerprint_sha256": hashlib.sha256(content).hexdigest(),
    }
    said = {name: label_text(value, LABEL_BYTES_MAX) for name, value in said.items()}
    series = Series(_INFO.name, labels(**said))
    return Certificate(ends_s, said["subject"], said["issuer"], said["subjectalternative"], series)


_SHORT: Final = {
    "commonName": "CN",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "localityName": "L",
    "stateOrProvinceName": "ST",
}


def _name(parts: Any) -> str:
    pairs = [pair for part in parts for pair in part]
    return ",".join(f"{_SHORT.get(key, key)}={value}" for key, value in reversed(pairs))


def _version(said: str | None) -> str:
    """As blackbox_exporter spells it: TLS 1.3."""
    return (
        said.replace("TLSv1", "TLS 1")
        if said and "." in said
        else "TLS 1.0"
        if said == "TLSv1"
        else said or ""
    )


# ---------------------------------------------------------------- handshakes and verdicts


async def secure(
    connection: Connection,
    options: TlsOptions,
    host: str,
    phases: Phases,
    alpn: tuple[str, ...] = (),
    phase: str = "tls",
) -> tuple[Presented, Failed | None]:
    """TLS over an open connection, and what was presented; the second is why the handshake failed. Raises Failed for
    what is no matter of TLS."""
    wanted = options.server_name or host
    phases.begin("")  # Making a context is our own affair: the first one takes some milliseconds.
    made = await context(options, phases.until_s, alpn)
    phases.begin(phase)
    try:
        secured = await connection.start_tls(made, wanted)
    except ssl.SSLError as exc:
        sent = connection.secured
        found = presented(sent, verified=False) if sent is not None else Presented((), (), "", "")
        return found, fault(exc, found, wanted, connection.where)
    except ValueError as exc:  # A name that no certificate can have.
        raise Failed("tls-failed", f"{wanted[:80]}: {exc}", verdict=Verdict.UNKNOWN) from exc
    return presented(secured, verified=not options.insecure_skip_verify), None


def fault(error: ssl.SSLError, found: Presented, wanted: str, where: str) -> Failed:
    """Why a handshake failed, in a word and a line."""
    leaf = found.chain[0] if found.chain else None
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = _FAULTS.get(error.verify_code, "tls-untrusted")
        words = error.verify_message.rstrip(".")
        detail = f"{where}: {words[:100]}"
        if reason == "tls-wrong-host" and leaf is not None:
            detail = (
                f"{where}: got a certificate for {leaf.names[:120] or leaf.subject[:120]}, wanted {wanted}"
            )
        elif reason in ("tls-expired", "tls-not-yet-valid"):
            detail = f"{where}: {words}: it ends {when(found.ends_s)}"
        elif leaf is not None:
            detail = f"{where}: {words}: issued by {leaf.issuer[:120]}"
        return Failed(reason, "".join(c if c.isprintable() else "?" for c in detail))
    name = error.reason or ""
    words = reason_of(error)
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)) or name == "UNEXPECTED_EOF_WHILE_READING":
        return Failed("closed", f"{where}: closed in the handshake")
    if name in _VERSION:
        return Failed("tls-version", f"{where}: {words}")
    if name in _NOT_SPOKEN:
        return Failed("tls-not-spoken", f"{where}: what answers is no TLS ({words})")
    if "ALERT" in name:
        return Failed("tls-refused", f"{where}: the server refuses: {words}")
    return Failed("tls-failed", f"{where}: {words}")


def when(at_s: float) -> str:
    """A day and minute in UTC."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at_s))


def judge_expiry(options: TlsOptions, found: Presented, now_s: float, findings: Findings) -> None:
    """By `cert_warn` and `cert_fail`, of the chain that was sent."""
    if not found.chain:
        return
    left_s = found.ends_s - now_s
    for verdict, limit_s in ((Verdict.CRITICAL, options.cert_fail), (Verdict.WARNING, options.cert_warn)):
        if left_s < limit_s:
            reason = "tls-expires-soon" if left_s >= 0 else "tls-expired"
            detail = f"the chain ends {when(found.ends_s)}, wanted {limit_s / DAY_S:g} days or more left"
            findings.add(verdict, reason, detail)
            return


def tell(samples: Samples, options: TlsOptions, found: Presented) -> None:
    """The series of TLS, as blackbox_exporter has them."""
    if found.chain:
        help_ = "When the first certificate that was sent ends, unix time."
        samples.gauge("probe_ssl_earliest_cert_expiry", help_, found.ends_s)
        samples.put(_INFO, 1, found.chain[0].series.labels)
    if found.verified:
        help_ = "When the chain that was verified ends, its root included, unix time."
        ends_s = min(one.not_after_s for one in found.verified)
        samples.gauge("probe_ssl_last_chain_expiry_timestamp_seconds", help_, ends_s)
    if found.version:
        samples.gauge("probe_tls_version_info", "The TLS that was spoken.", 1, version=found.version)
    if found.cipher:
        samples.gauge("probe_tls_cipher_info", "The cipher that was used.", 1, cipher=found.cipher)
    if options.insecure_skip_verify:
        help_ = "1: insecure_skip_verify is set, so that whoever answered may be anybody."
        samples.gauge("watchbill_check_insecure", help_, 1)
