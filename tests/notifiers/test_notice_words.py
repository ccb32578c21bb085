"""What notices say, before any format."""

from typing import Any

import pytest

from watchbill_collector.notifiers.filling import template_fault, words
from watchbill_collector.notifiers.hostile import line, lines, web_link
from watchbill_collector.notifiers.notice import NoticeKind
from watchbill_collector.notifiers.story import ALERTS_SHOWN_MAX, as_text, span, tell
from watchbill_collector.notifiers.trial import next_step, trial_notice


def test_titles_say_it_all_in_one_line(a: Any) -> None:
    one = a.alert()
    bare = a.alert(annotations={})
    cases = [
        (a.notice(one), "[CRITICAL] DiskFull: /var on web1 is 97 % full"),
        (a.notice(bare), "[CRITICAL] DiskFull on web1 /var"),
        (a.notice(one, severity=""), "[ALERT] DiskFull: /var on web1 is 97 % full"),
        (a.resolved(one), "[RESOLVED] DiskFull: /var on web1 is 97 % full"),
        (
            a.notice(
                one,
                a.alert(2),
                a.alert(3, status="resolved", ends_ms=a.NOW_MS),
                group_labels={"service": "shop"},
            ),
            "[CRITICAL] DiskFull (2 firing, 1 resolved) service=shop",
        ),
        (
            a.notice(one, a.alert(2), alerts_left_out=498),
            "[CRITICAL] DiskFull (500 firing), first: web1 /var",
        ),
        (a.notice(one, kind=NoticeKind.DIGEST, alerts_left_out=3), "[DIGEST] 4 things to look at"),
        (a.notice(kind=NoticeKind.PLAIN, remark="the outbox is full"), "[WATCHBILL] the outbox is full"),
        (
            trial_notice("ops", a.NOW_MS, "", "eva", "1"),
            "[TEST] WatchbillTest: This is a test: nothing is wrong",
        ),
    ]
    for made, wanted in cases:
        assert tell(made).title == wanted


def test_a_summary_that_does_not_name_the_host_gets_it(a: Any) -> None:
    made = a.notice(a.alert(annotations={"summary": "Disk is full"}))
    assert tell(made).alerts[0].headline == "Disk is full on web1 /var"


def test_of_many_alerts_the_first_are_listed_and_the_rest_counted(a: Any) -> None:
    told = tell(a.notice(*(a.alert(number) for number in range(500)), alerts_left_out=100))
    assert len(told.alerts) == ALERTS_SHOWN_MAX
    assert told.more == "and 580 more"
    assert len(as_text(told)) < 20_000


def test_what_fires_is_listed_before_what_ended(a: Any) -> None:
    told = tell(a.notice(a.alert(1, status="resolved", ends_ms=a.NOW_MS), a.alert(2)))
    assert [alert.firing for alert in told.alerts] == [True, False]
    assert "lasted 5m 0s" in told.alerts[1].since


def test_doubts_are_said(a: Any) -> None:
    text = as_text(tell(a.notice(a.alert(incomplete=True, value=None))))
    assert "judged on incomplete data" in text
    assert "value" not in text


def test_runbooks_and_articles_of_ours_are_named_without_being_links(a: Any) -> None:
    made = a.notice(a.alert(annotations={"summary": "x", "runbook": "pg-failover", "article": "disk-full"}))
    links = {link.name: (link.text, link.url) for link in tell(made).alerts[0].links}
    assert links["runbook"] == ("pg-failover", "")
    assert links["article"] == ("disk-full", "")


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "//evil",
        "https://a b",
        'https://a/"x',
        "https://a/<x>",
        "https://\u0430pple.com",
        "ftp://x",
    ],
)
def test_only_plain_web_addresses_become_links(url: str) -> None:
    assert web_link(url) == ""


def test_what_cannot_be_seen_is_shown() -> None:
    assert line("a\r\nb\tc", 100) == "a b c"
    assert line("a\x00\u202e\u200b\ud800\U000e0001", 100) == "a\\u0000\\u202e\\u200b\\ud800\\ue0001"
    assert line("x" * 1_000, 10) == "xxxxxxxxx…"
    assert lines("a\r\n\n\n\n\x1bb\n", 100) == "a\n\n\\u001bb"
    assert len(lines("y\n" * 100_000, 500)) <= 500


def test_a_very_long_hostile_text_costs_little() -> None:
    assert len(line("\u202e" * 50_000_000, 300)) <= 300


@pytest.mark.parametrize(
    ("ms", "wanted"), [(0, "0s"), (5_400_000, "1h 30m"), (90_061_000, "1d 1h"), (-5, "0s")]
)
def test_spans_have_the_two_units_that_matter(ms: int, wanted: str) -> None:
    assert span(ms) == wanted


# ---------------------------------------------------------------- the owner's templates


def test_an_owners_template_is_filled_in(a: Any) -> None:
    said = words(
        a.notice(),
        "{{ $severity | toUpper }} {{ $labels.alertname }} since {{ $since }} ({{ $count }})",
        "{{ $text }}\n\nBridge: +41 44 000 00 00, {{ $value | humanize }} {{ $owner }}",
    )
    assert said.title == "CRITICAL DiskFull since 2026-11-18 11:01:40 UTC (1)"
    assert said.text.startswith("/var on web1 is 97 % full")
    assert said.text.endswith("Bridge: +41 44 000 00 00, 97.25 team-web")


def test_a_template_that_fails_sends_the_plain_words_and_says_so(a: Any) -> None:
    said = words(a.notice(), "{{ $labels.alertname | humanize }}", "")
    assert said.title == "[CRITICAL] DiskFull: /var on web1 is 97 % full"
    assert "NOTE: the channel's template `title` failed: humanize: cannot read" in said.text
    said = words(a.notice(remark="late"), "{{ $nobody }}", "{{ $nobody }}")
    assert "late; the channel's template `title` failed" in said.story.remark
    assert "`text` failed" in said.story.remark


def test_a_template_cannot_break_the_title_into_lines(a: Any) -> None:
    assert "\n" not in words(a.hostile_notice(), "{{ $labels.x }}\nsecond").title


def test_mistakes_in_templates_are_found_when_the_file_is_read() -> None:
    assert "nope" in template_fault("{{ $nope }}")
    assert "range" in template_fault("{{ range .Alerts }}{{ end }}")
    assert "query" in template_fault('{{ query "up" }}')
    assert template_fault("{{ range $name, $text := $labels }}{{ $name }}{{ end }}") == ""
    assert "unclosed" in template_fault("{{ $title")
    assert template_fault("{{ $labels.instance | toUpper }} {{ $annotations.summary }}") == ""


def test_every_failure_has_a_next_step() -> None:
    assert "renew" in next_step("https://x: its certificate is not valid: certificate has expired")
    assert "resolver" in next_step("https://x: name or service not known")
    assert next_step("whatever")
