"""Mistakes in checks of the network name the file, the line, the key, what was got and what is wanted."""

from pathlib import Path

import pytest

from watchbill.errors import ConfigError
from watchbill_agent.checks.config import Trees, read_checks

HTTP = 'kind = "http"\nurl = "http://a.example/"\n'
TCP, TLS, ICMP, DNS = (f'kind = "{kind}"\n' for kind in ("tcp", "tls", "icmp", "dns"))
CASES = [
    (
        HTTP.replace("http://a.example/", "ftp://a.example/"),
        3,
        "url",
        '"ftp://a.example/"',
        "an address such as",
    ),
    (
        HTTP.replace("http://a.", "http://u:p@a."),
        3,
        "url",
        '"http://u:p@a.example/"',
        "username and password_file",
    ),
    (HTTP.replace("example/", "example/a b"), 3, "url", '"http://a.example/a b"', "without spaces"),
    (HTTP + 'valid_status_codes = ["2xx", "20"]', 4, "valid_status_codes[1]", '"20"', '"200-204"'),
    (HTTP + "valid_status_codes = [200, 99]", 4, "valid_status_codes[1]", "99", '"200-204"'),
    (HTTP + 'valid_status_codes = ["204-200"]', 4, "valid_status_codes[0]", '"204-200"', '"200-204"'),
    (HTTP + 'fail_if_body_matches_regexp = ["("]', 4, "fail_if_body_matches_regexp[0]", '"(", which', "RE2"),
    (HTTP + "fail_if_body_matches_regexp = ['(a)\\1']", 4, "fail_if_body_matches_regexp[0]", "escape", "RE2"),
    (
        HTTP + 'fail_if_header_matches = [{ header = "A", regexp = "[" }]',
        4,
        "fail_if_header_matches[0].regexp",
        '"[", which',
        "RE2",
    ),
    (HTTP + 'json = ["$.a = 1"]', 4, "json[0]", '"$.a = 1"', "a path, alone or with a comparison"),
    (
        HTTP + 'headers = { Authorization = "Bearer x" }',
        4,
        "headers.Authorization",
        "a secret",
        "header_files",
    ),
    (HTTP + 'headers = { "a b" = "c" }', 4, "headers", '"a b"', "the name of a header"),
    (HTTP + 'password_file = "secret"', 4, "password_file", '"secret"', "an absolute path"),
    (HTTP + 'password_file = "/s"', 2, "username", "nothing", "whose password"),
    (HTTP + 'key_file = "/s"', 2, "cert_file", "nothing", "the certificate of key_file"),
    (HTTP + 'warn_after = "3s"\nfail_after = "1s"', 4, "warn_after", '"3s"', "less than fail_after"),
    (HTTP + 'cert_warn = "1d"', 2, "cert_fail", '"3d"', "at most cert_warn"),
    (HTTP + 'body_size_limit = "1GiB"', 4, "body_size_limit", '"1GiB"', "16MiB"),
    (HTTP + 'proxy_url = "https://p.example/"', 4, "proxy_url", '"https://p.example/"', "http://HOST:PORT"),
    (HTTP + 'ca_file = "ca.pem"', 4, "ca_file", '"ca.pem"', "an absolute path"),
    (TCP, 2, "address", "nothing", "an address with its port"),
    (TCP + 'address = "a"', 3, "address", '"a"', "an address with its port"),
    (
        TCP + 'address = "a:1"\nquery_response = [{ expect = "(" }]',
        4,
        "query_response[0].expect",
        '"(", which',
        "RE2",
    ),
    (TCP + 'address = "a:1"\nquery_response = [{}]', 4, "query_response[0]", "an empty step", "expect, send"),
    (
        TCP + 'address = "a:1"\ntls = true\nquery_response = [{ starttls = true }]',
        5,
        "query_response",
        "TLS that begins 2 times",
        "once at most",
    ),
    (TLS + 'address = "a:1"\nstarttls = "sieve"', 4, "starttls", '"sieve"', '"smtp"'),
    (ICMP + 'target = "a b"', 3, "target", '"a b"', "a name or an address"),
    (ICMP + 'target = "a"\nloss_warn = 50\nloss_fail = 20', 4, "loss_warn", "50", "at most loss_fail, 20"),
    (ICMP + 'target = "a"\ncount = 1000', 4, "count", "1000", "100"),
    (DNS + 'query_name = "a..b"', 3, "query_name", '"a..b"', "a name such as www.example"),
    (DNS + 'query_name = "a"\nquery_type = "AXFR"', 4, "query_type", '"AXFR"', "a type such as A"),
    (DNS + 'query_name = "a"\nvalid_rcodes = ["NO"]', 4, "valid_rcodes[0]", '"NO"', "NXDOMAIN"),
    (DNS + 'query_name = "a"\nservers = ["a:b"]', 4, "servers[0]", '"a:b"', "a server such as"),
    (DNS + 'query_name = "a"\nexpect_mode = "any"', 2, "expect", "nothing", "the records that any is about"),
    (HTTP + 'method = "get"', 4, "method", '"get"', "GET or POST"),
]


@pytest.mark.parametrize(("text", "line", "key", "got", "wanted"), CASES)
def test_a_mistake_is_named(tmp_path: Path, text: str, line: int, key: str, got: str, wanted: str) -> None:
    file = tmp_path / "checks.d" / "net.toml"
    file.parent.mkdir()
    file.write_text(f'[[check]]\n{text}\nname = "a"\n')
    with pytest.raises(ConfigError) as caught:
        read_checks(Trees(tmp_path))
    (problem,) = caught.value.problems
    assert problem.file == str(file)
    assert key in problem.key
    assert got in problem.got
    assert wanted in problem.wanted
    assert problem.line == line or (line == 2 and problem.line == 1)
