"""Mail, to a real SMTP server."""

from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest

from watchbill_collector.notifiers.channels.email import Options, render
from watchbill_collector.notifiers.filling import words
from watchbill_collector.notifiers.notice import SendFailed

pytestmark = pytest.mark.real("aiosmtpd")

TO = 'to = ["ops@example.org", "dba@example.org"]\nfrom = "watchbill@example.org"\ntimeout = "10s"\n'


def keys(server: Any, more: str = "") -> str:
    return f'{TO}server = "127.0.0.1:{server.port}"\n{more}'


async def failure(made: Any, one: Any) -> SendFailed:
    with pytest.raises(SendFailed) as failed:
        await made.send(one)
    return failed.value


def part(mail: Any, kind: str) -> str:
    found = mail.get_body((kind,))
    return str(found.get_content())


async def test_a_mail_says_what_one_wants_to_know_at_night(channel: Any, mail_server: Any, a: Any) -> None:
    server = mail_server()
    delivered = await channel("email", keys(server)).send(a.notice(alerts_left_out=7))
    assert delivered.detail == "250 taken as number 1"
    (mail,) = server.mails()
    assert (
        mail["Subject"] == "[CRITICAL] DiskFull (1 firing) first: web1 /var" or "DiskFull" in mail["Subject"]
    )
    text = part(mail, "plain")
    for wanted in (
        "/var on web1 is 97 % full",
        "since 2026-11-18 11:01:40 UTC, 5m 0s ago",
        "value: 97.25",
        "service: shop",
        "owner: team-web",
        "instance=web1",
        "It will be full in 40 minutes.",
        "https://runbooks.example/disk",
        "https://collector.example:7480",
        "and 7 more",
    ):
        assert wanted in text
    assert '<a href="https://runbooks.example/disk"' in part(mail, "html")
    assert mail["X-Seen-To"] == "ops@example.org,dba@example.org"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Importance"] == "high"


async def test_an_end_says_how_long_it_lasted(channel: Any, mail_server: Any, a: Any) -> None:
    server = mail_server()
    await channel("email", keys(server)).send(a.resolved())
    (mail,) = server.mails()
    assert mail["Subject"].startswith("[RESOLVED] DiskFull")
    assert "It lasted 5m 0s" in part(mail, "plain")
    assert mail["Importance"] is None


async def test_a_repeat_is_the_same_message_and_a_group_is_one_thread(
    channel: Any, mail_server: Any, a: Any
) -> None:
    server = mail_server()
    made = channel("email", keys(server))
    for one in (a.notice(), a.notice(), a.resolved()):
        await made.send(one)
    first, again, end = server.mails()
    assert first["Message-ID"] == again["Message-ID"] != end["Message-ID"]
    assert first["References"] == end["References"]
    assert first.as_bytes() == again.as_bytes()


def test_nothing_a_host_says_becomes_a_header_or_markup(a: Any) -> None:
    options = Options(name="m", kind="email", to=["ops@example.org"], sender="watchbill@example.org")
    one = a.hostile_notice()
    sent = render(one, words(one), options).as_bytes()
    mail = message_from_bytes(sent, policy=policy.default)
    assert mail["Bcc"] is None
    assert mail["To"] == "ops@example.org"
    assert "\\u202e" in mail["Subject"] or len(mail["Subject"]) > 100
    html = part(mail, "html")
    assert "<script" not in html
    assert "<img" not in html
    assert "onclick" not in html.replace("&quot;onclick=&quot;", "")
    assert "javascript:" not in html
    for shown in (html, part(mail, "plain")):
        assert not any(char in shown for char in "\x00\x1b\u202e\u2028")
    assert b"\nBcc" not in sent.partition(b"\r\n\r\n")[0]


async def test_starttls_is_used_and_verified(
    channel: Any, mail_server: Any, certificates: Any, a: Any
) -> None:
    server = mail_server("--tls", "starttls", str(certificates.chain), str(certificates.key))
    right = keys(server, f'tls = "starttls"\nca_file = "{certificates.ca}"')
    await channel("email", right).send(a.notice())
    assert server.mails()[0]["X-Seen-Tls"] == "yes"
    failed = await failure(channel("email", keys(server, 'tls = "starttls"')), a.notice())
    assert failed.transient
    assert "certificate is not valid" in failed.why
    assert len(server.mails()) == 1


async def test_tls_from_the_first_byte(channel: Any, mail_server: Any, certificates: Any, a: Any) -> None:
    server = mail_server(
        "--tls", "tls", str(certificates.chain), str(certificates.key), "--login", "u", "pw-12345"
    )
    password = f'user = "u"\npassword_file = "{channel.secret("pw", "pw-12345")}"\n'
    await channel("email", keys(server, f'tls = "tls"\nca_file = "{certificates.ca}"\n{password}')).send(
        a.notice()
    )
    assert len(server.mails()) == 1


@pytest.mark.parametrize("way", ["starttls", "tls"])
async def test_an_expired_certificate_is_named_and_waited_for(
    way: str, channel: Any, mail_server: Any, ended_certificates: Any, a: Any
) -> None:
    server = mail_server("--tls", way, str(ended_certificates.chain), str(ended_certificates.key))
    made = channel("email", keys(server, f'tls = "{way}"\nca_file = "{ended_certificates.ca}"'))
    failed = await failure(made, a.notice())
    assert failed.transient
    assert "expired" in failed.why


async def test_a_server_without_starttls_gets_nothing(channel: Any, mail_server: Any, a: Any) -> None:
    server = mail_server()
    failed = await failure(channel("email", keys(server, 'tls = "starttls"')), a.notice())
    assert "STARTTLS" in failed.why
    assert server.mails() == []


async def test_a_wrong_password_is_said_without_showing_it(channel: Any, mail_server: Any, a: Any) -> None:
    server = mail_server("--login", "u", "right")
    password = f'user = "u"\npassword_file = "{channel.secret("pw", "wrong-hunter2")}"\n'
    failed = await failure(channel("email", keys(server, password)), a.notice())
    assert failed.unwelcome
    assert "login refused: 535" in failed.why
    assert "hunter2" not in failed.why


@pytest.mark.parametrize(
    ("verb", "answer", "transient", "unwelcome"),
    [
        ("MAIL", "451 try later", True, False),
        ("MAIL", "550 not from here", True, True),
        ("MAIL", "552 too large", False, False),
        ("RCPT", "450 greylisted", True, False),
        ("RCPT", "550 nobody here", True, True),
        ("DATA", "452 no room", True, False),
        ("DATA", "530 log in first", True, True),
        ("DATA", "554 spam", False, False),
    ],
)
async def test_the_servers_code_decides_whether_to_try_again(
    verb: str, answer: str, transient: bool, unwelcome: bool, channel: Any, mail_server: Any, a: Any
) -> None:
    failed = await failure(channel("email", keys(mail_server("--say", verb, answer))), a.notice())
    assert (failed.transient, failed.unwelcome) == (transient, unwelcome)
    assert answer in failed.why


async def test_one_refused_recipient_does_not_cost_the_others_their_mail(
    channel: Any, mail_server: Any, a: Any
) -> None:
    server = mail_server("--say", "RCPT", "550 nobody here @ dba@example.org")
    delivered = await channel("email", keys(server)).send(a.notice())
    assert "refused for dba@example.org: 550" in delivered.detail
    assert server.mails()[0]["X-Seen-To"] == "ops@example.org"


async def test_what_a_server_says_to_quit_does_not_undo_its_yes(
    channel: Any, mail_server: Any, a: Any
) -> None:
    server = mail_server("--say", "QUIT", "500 never")
    await channel("email", keys(server)).send(a.notice())
    assert len(server.mails()) == 1


async def test_a_server_that_talks_for_ever_is_cut_off(channel: Any, a: Any, tmp_path: Path) -> None:
    import asyncio

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(b"220-and another line\r\n" * 1_000)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        failed = await failure(channel("email", f'{TO}server = "127.0.0.1:{port}"'), a.notice())
    assert failed.transient
    assert "more than 65536 bytes" in failed.why
