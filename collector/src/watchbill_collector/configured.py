"""What a configuration names, read and judged before anything is done with it: rules, channels, secrets, addresses.

A start, a reload, `check-config` and `doctor` ask the same questions here.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from watchbill import __version__
from watchbill.config import Homes
from watchbill.errors import ConfigError, Problem
from watchbill.files import FileMissing, UnreadableFile, read_bounded
from watchbill_collector.config import CollectorConfig, load_config
from watchbill_collector.rules import Source, check, lint, read, stock_sources
from watchbill_collector.rules.files import load as load_rules
from watchbill_collector.rules.stock import unknown_stock
from watchbill_collector.runbookfiles import check_runbooks
from watchbill_collector.servicebook import read_services

PASSWORD_BYTES_MAX = 4096
CERTIFICATE_BYTES_MAX = 1 << 20
"""Of a file with certificates or a key."""
RULES_DIRECTORY = "rules.d"


def external_url(config: CollectorConfig, host_name: str) -> str:
    """Where people reach the page, without a slash at the end: as configured, else by this machine's name."""
    http = config.http
    scheme = "https" if http.certificate is not None else "http"
    return http.external_url.rstrip("/") or f"{scheme}://{bracketed(host_name)}:{http.listen.port}"


def answered_names(config: CollectorConfig, names: Sequence[str]) -> tuple[str, ...]:
    """The names by which browsers may call us: those of the certificate, and the one of `external_url`, which a proxy
    in front hands on."""
    outside = urlsplit(config.http.external_url).hostname or ""
    return (*names, outside) if outside and outside not in names else tuple(names)


def store_password(config: CollectorConfig) -> str:
    """The database password from its file, empty when none is configured. Raises ConfigError."""
    path = config.store.password_file
    if path is None:
        return ""
    try:
        return read_bounded(path, PASSWORD_BYTES_MAX).decode().strip()
    except (FileMissing, UnreadableFile, UnicodeDecodeError) as exc:
        raise ConfigError([Problem(str(path), 0, "", str(exc), "a readable file with the password")]) from exc


def rule_sources(homes: Homes, config: CollectorConfig) -> list[Source]:
    """The rule files to load: the stock pack and rules.d. Raises ConfigError for what cannot be read."""
    directory = homes.etc / RULES_DIRECTORY
    try:
        there = directory.exists()
    except OSError:
        there = True  # Nobody may look: reading it says so.
    sources, problems = read([directory] if there else [])
    if problems:
        raise ConfigError(problems)
    off = config.rules.stock_off
    unknown = unknown_stock(off)
    if unknown:
        file, wanted = str(homes.etc / "collector.toml"), "names that `watchbill-collector rules stock` lists"
        raise ConfigError([Problem(file, 0, "rules.stock_off", f'"{name}"', wanted) for name in unknown])
    stock = stock_sources(off) if config.rules.stock else []
    return [*stock, *sources]


def check_rules(homes: Homes, config: CollectorConfig) -> None:
    """Judge every rule file of this configuration. Raises ConfigError with all problems."""
    problems = check(rule_sources(homes, config))
    if problems:
        raise ConfigError(problems)


def channel_faults(config: CollectorConfig) -> list[Problem]:
    """Channels that are configured rightly and could not send: a secret that is missing, a program."""
    if not config.channel:
        return []
    from watchbill_collector.notifiers.channel import Surroundings
    from watchbill_collector.notifiers.configured import check_ready

    return check_ready(config.channel, Surroundings(__version__))


def check_channels(config: CollectorConfig) -> None:
    """Judge whether every channel could send. Raises ConfigError with all problems."""
    problems = channel_faults(config)
    if problems:
        raise ConfigError(problems)


def all_problems(homes: Homes) -> list[Problem]:
    """Everything that is wrong with a configuration: collector.toml, rules, runbooks, services, channels. What follows
    from another mistake alone is not told: while collector.toml cannot be read, nobody knows which channels there are.
    """
    problems: list[Problem] = []
    config: CollectorConfig | None = None
    try:
        config = load_config(homes)
    except ConfigError as exc:
        problems += exc.problems
    for judge in (
        lambda: check_rules(homes, config or CollectorConfig()),
        lambda: check_runbooks(homes),
        lambda: read_services(homes.etc, None if config is None else config.channel_names),
        lambda: None if config is None else check_channels(config),
        lambda: None if config is None else check_files(homes, config),
    ):
        try:
            judge()
        except ConfigError as exc:
            problems += exc.problems
    return problems


def check_files(homes: Homes, config: CollectorConfig) -> None:
    """Judge the files that collector.toml names beside the channels' own. Raises ConfigError with all problems."""
    from watchbill_collector.dispatch.watchdog import read_headers

    file, problems = str(homes.etc / "collector.toml"), []
    http, mqtt = config.http, config.mqtt
    for table, one in (("http", http), ("mqtt", mqtt)):
        if one.certificate is not None and one.key is not None:
            problems += _pair_problems(file, table, one.certificate, one.key)
    for key, path in (
        ("mqtt.password_file", mqtt.password_file),
        ("mqtt.ca", Path(mqtt.ca) if mqtt.ca else None),
    ):
        try:
            if path is not None:
                read_bounded(path, CERTIFICATE_BYTES_MAX)
        except (FileMissing, UnreadableFile) as exc:
            problems.append(Problem(file, 0, key, f"{path}: {exc.got}", "a file that can be read"))
    for judge in (lambda: store_password(config), lambda: read_headers(config.watchdog.headers_file)):
        try:
            judge()
        except ConfigError as exc:
            problems += exc.problems
    if problems:
        raise ConfigError(problems)


def _pair_problems(file: str, table: str, certificate: Path, key: Path) -> list[Problem]:
    """What keeps a certificate and its key from serving TLS."""
    import ssl

    problems = []
    for name, path in (("certificate", certificate), ("key", key)):
        try:
            read_bounded(path, CERTIFICATE_BYTES_MAX)
        except (FileMissing, UnreadableFile) as exc:
            problems.append(
                Problem(file, 0, f"{table}.{name}", f"{path}: {exc.got}", "a PEM file that can be read")
            )
    if problems:
        return problems
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (OSError, ssl.SSLError) as exc:
        wanted = "a certificate chain in PEM, and in `key` the key of its first, without a pass phrase"
        reason = getattr(exc, "reason", None) or exc.strerror or str(exc)
        return [Problem(file, 0, f"{table}.certificate", f"{certificate}, {key}: {reason}", wanted)]
    return []


def check_rule_files(paths: Sequence[Path]) -> Iterator[str]:
    """Judge some rule files; a line for each that is right. Raises ConfigError with all problems of all."""
    sources, problems = read(paths)
    rules, found = load_rules(sources)
    problems += found
    if problems:
        raise ConfigError(problems)
    for warning in lint.warnings(rules):
        yield f"warning: {warning}"
    for source in sources:
        yield f"{source.file}: ok"


def configured_texts(homes: Homes, config: CollectorConfig) -> dict[str, str]:
    """What decides about alerts and notices, as text by name, for the audit; what may hold a secret (channels,
    the rest of collector.toml) as a hash alone. Raises ConfigError."""
    texts = {source.file: source.content.decode("utf-8", "replace") for source in rule_sources(homes, config)}
    for file in sorted((homes.etc / "services.d").glob("*.toml")):
        with contextlib.suppress(OSError):
            texts[f"services.d/{file.name}"] = file.read_text("utf-8", "replace")
    for name, tables in (("routes", config.route), ("maintenance", config.maintenance)):
        lines = [f"{key} = {value!r}" for table in tables for key, value in (*table.values.items(), ("", ""))]
        texts[f"collector.toml: {name}"] = "\n".join(lines) + "\n" if lines else ""
    for table in config.channel:
        digest = hashlib.sha256(repr(sorted(table.values.items())).encode()).hexdigest()
        texts[f"collector.toml: channel {table.values.get('name', '')}"] = f"sha256 {digest}\n"
    return texts


def bracketed(host: str) -> str:
    """A host name or address as it stands before a port."""
    return f"[{host}]" if ":" in host else host
