"""Pushes alerts to Alertmanager's API v2, every member of a cluster, and clears them by their end.

An alert that fires is pushed with an end in the future (`keep_alive`), so that it ends by itself when nobody
speaks for it any more; therefore a notice that still fires has to be sent again within `refresh_s`, a third
of it. A resolved alert is pushed with the time when it ended. Alertmanager groups, silences and routes by
itself: its route here wants every alert on its own merits, not a digest, which is refused.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from watchbill.config import Duration, Wrong, option
from watchbill_collector.notifiers.channel import Channel, Surroundings, read_secret
from watchbill_collector.notifiers.document import encode, rfc3339
from watchbill_collector.notifiers.notice import Delivered, Notice, NoticeAlert, NoticeKind, SendFailed
from watchbill_collector.notifiers.peer import (
    Peer,
    Reached,
    origin,
    plain_url_wrongs,
    refuse_unless_ok,
    url_wrongs,
)
from watchbill_collector.notifiers.secret import Secret, SecretFile

PATH: Final = "/api/v2/alerts"
URLS_MAX: Final = 16
TEST_LASTS_S: Final = 60
"""A test clears itself."""
PLAIN_ALERT: Final = "Watchbill"
ALERTS_MAX: Final = 10_000
"""Alerts of one notice that are pushed; those beyond are counted in what is kept of the answer."""
ALERTS_AT_ONCE: Final = 1_000
"""Alerts in one request."""


def _urls(values: list[str]) -> Iterator[Wrong]:
    if not values:
        yield Wrong("", "an empty array", "at least one address")
    for number, value in enumerate(values):
        yield from url_wrongs(value, str(number))


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(Reached):
    """Alertmanager's API v2."""

    urls: list[str] = option(
        check=_urls,
        length_max=URLS_MAX,
        help="Every member of the cluster; /api/v2/alerts is added.",
        example='["http://127.0.0.1:9093"]',
    )
    keep_alive: Duration = option(
        Duration(900),
        at_least=60,
        at_most=86_400,
        help="How long an alert outlives the last word about it; it is sent again every third of that.",
    )
    authorization_file: SecretFile | None = option(
        None, help='File with a whole Authorization header, such as "Basic ...".'
    )

    def check(self) -> Iterator[Wrong]:
        """Not in the clear by accident."""
        for url in self.urls:
            yield from plain_url_wrongs("urls", url, insecure=self.insecure)


class Alertmanager(Channel):
    """Every alert of a notice, to every member."""

    kind = "alertmanager"
    options_type = Options
    alerts_wanted = ALERTS_MAX
    instead_of_digest = "page"  # It has routes of its own, and decides there whom it wakes.

    def __init__(self, options: Options, surroundings: Surroundings) -> None:
        self._options = options
        self._peer = Peer(options, surroundings)
        self.refresh_s = float(options.keep_alive) / 3

    async def send(self, notice: Notice) -> Delivered:
        """Push to all members at once; one that takes it is enough, for the rest is said again soon."""
        if notice.kind is NoticeKind.DIGEST:
            raise SendFailed(
                "alertmanager: a digest holds no alerts to push; route it elsewhere", transient=False
            )
        every = alerts(notice, self._options.keep_alive.ms)
        bodies = [
            encode(every[at : at + ALERTS_AT_ONCE]) for at in range(0, max(len(every), 1), ALERTS_AT_ONCE)
        ]
        headers, secrets = self._authorization()
        results = await asyncio.gather(
            *(self._push(url, bodies, headers, secrets) for url in self._options.urls), return_exceptions=True
        )
        failures = [result for result in results if isinstance(result, SendFailed)]
        other = next(
            (result for result in results if isinstance(result, BaseException) and result not in failures),
            None,
        )
        if other is not None:
            raise other
        taken = len(results) - len(failures)
        whys = "; ".join(failure.why for failure in failures)
        if not taken:
            waits = [failure.retry_after_s for failure in failures if failure.retry_after_s is not None]
            raise SendFailed(
                whys,
                transient=any(failure.transient for failure in failures),
                retry_after_s=max(waits, default=None),
                unwelcome=all(failure.unwelcome for failure in failures),
            )
        left = f"; {notice.alerts_left_out} alerts did not fit the notice" if notice.alerts_left_out else ""
        missing = f"; not taken: {whys}" if whys else ""
        return Delivered(f"{taken} of {len(results)} took {len(notice.alerts)} alerts{left}{missing}")

    async def _push(
        self, url: str, bodies: list[bytes], headers: dict[str, str], secrets: list[Secret]
    ) -> None:
        for body in bodies:
            answer = await self._peer.post(url.rstrip("/") + PATH, body, headers, secrets)
            refuse_unless_ok(answer, origin(url))

    def _authorization(self) -> tuple[dict[str, str], list[Secret]]:
        if self._options.authorization_file is None:
            return {}, []
        secret = read_secret(self._options.authorization_file)
        if not secret.reveal().isascii() or not secret.reveal().isprintable():
            raise SendFailed("authorization_file: wanted one line of printable ASCII", transient=True)
        return {"authorization": secret.reveal()}, [secret, Secret(secret.reveal().rpartition(" ")[2])]

    def ready(self) -> None:
        """The secret is there."""
        self._peer.ready()
        self._authorization()

    async def close(self) -> None:
        """Close the connections."""
        await self._peer.close()


def alerts(notice: Notice, keep_alive_ms: int) -> list[dict[str, Any]]:
    """The JSON array that is posted."""
    until_ms = notice.created_ms + (TEST_LASTS_S * 1000 if notice.kind is NoticeKind.TEST else keep_alive_ms)
    if notice.kind is NoticeKind.PLAIN and not notice.alerts:
        return [_plain(notice, until_ms)]
    return [_alert(alert, notice, until_ms) for alert in notice.alerts]


def _alert(alert: NoticeAlert, notice: Notice, until_ms: int) -> dict[str, Any]:
    ended = alert.status == "resolved" or notice.kind is NoticeKind.RESOLVED
    ends_ms = (alert.ends_ms if alert.ends_ms is not None else notice.created_ms) if ended else until_ms
    annotations = dict(alert.annotations)
    for name, text in (("service", alert.service), ("owner", alert.owner)):
        if text:
            annotations.setdefault(name, text)
    found: dict[str, Any] = {
        # Alertmanager refuses the whole request for one empty label.
        "labels": {name: text for name, text in alert.labels.items() if text},
        "annotations": {name: text for name, text in annotations.items() if text},
        "startsAt": rfc3339(alert.starts_ms),
        "endsAt": rfc3339(max(ends_ms, alert.starts_ms)),
    }
    if alert.generator_url.startswith(("http://", "https://")):
        found["generatorURL"] = alert.generator_url
    return found


def _plain(notice: Notice, until_ms: int) -> dict[str, Any]:
    return {
        "labels": {
            "alertname": PLAIN_ALERT,
            "severity": notice.severity or "minor",
            "route": notice.route or "-",
        },
        "annotations": {"summary": notice.remark or "Watchbill has something to say"},
        "startsAt": rfc3339(notice.created_ms),
        "endsAt": rfc3339(until_ms),
    }
