"""The notice that `notify test` sends: a whole one, with an alert in it, that says it is a test."""

from typing import Final

from watchbill_collector.notifiers.notice import Notice, NoticeAlert, NoticeKind

TEST_ALERT: Final = "WatchbillTest"


def trial_notice(channel: str, now_ms: int, external_url: str, who: str, nonce: str) -> Notice:
    """A test of `channel`, asked for by `who`; `nonce` makes it another message each time."""
    labels = {"alertname": TEST_ALERT, "severity": "info", "channel": channel}
    annotations = {
        "summary": "This is a test: nothing is wrong",
        "description": f"{who} asked whether this channel works. If you read this, it does.",
    }
    alert = NoticeAlert(
        fingerprint="0" * 16,
        labels=labels,
        annotations=annotations,
        status="firing",
        starts_ms=now_ms,
        ends_ms=None,
        value=1.0,
        generator_url="",
    )
    return Notice(
        key=f"test/{channel}/{nonce}",
        group_key=f"test/{channel}/{nonce}",
        channel=channel,
        route="",
        kind=NoticeKind.TEST,
        severity="info",
        group_labels={"alertname": TEST_ALERT},
        common_labels=labels,
        common_annotations=annotations,
        alerts=(alert,),
        alerts_left_out=0,
        created_ms=now_ms,
        external_url=external_url,
    )


_STEPS: Final = (
    ("certificate", "renew the peer's certificate, or name the authority that signs it with ca_file"),
    ("secret", "put the secret into that file, readable by the collector's user alone"),
    ("login refused", "check user and password_file"),
    ("connection refused", "check the address and the port, and whether the peer runs"),
    ("name or service", "check the host's name, and this machine's resolver"),
    ("no address associated", "check the host's name, and this machine's resolver"),
    ("within", "check the address and what is between here and there; a slow peer needs a longer timeout"),
    ("in the clear", "use https://, or say insecure = true"),
    ("could not be started", "check the path in argv, and that the collector's user may execute it"),
    (": 401", "check the channel's secret: the peer does not accept it"),
    (": 403", "check the channel's secret: the peer does not accept it"),
    (": 404", "check the address: the peer does not know it"),
    (": 429", "the peer has had too many: try again later"),
)
"""What to do about a failure, by what its reason says; the first that is found counts."""


def next_step(why: str) -> str:
    """The next thing to do after a failure, in words."""
    for words, step in _STEPS:
        if words in why.lower():
            return step
    return "look at the channel in collector.toml, and at the peer's own log"
