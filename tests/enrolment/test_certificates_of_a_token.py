"""How long a host's certificates last and may be renewed late, as its token said."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from watchbill.clock import ManualClock, SystemClock
from watchbill.errors import UsageError
from watchbill.identity import AgentIdentity, IdentityFile, IdentityRefused, RefusalReason
from watchbill_agent.enroll import EnrolRequest
from watchbill_agent.enroll_child import enrol
from watchbill_agent.renew import renew
from watchbill_collector.enrolment import EnrolmentOrder
from watchbill_collector.enrolment.tokens import check_order
from watchbill_collector.lifetimes import Lifetimes
from watchbill_collector.pki.authority import AGENT_BACKDATED_S

Ask = Callable[..., EnrolRequest]
DAY_S = 86_400
LONG = Lifetimes(server_s=3_000 * DAY_S)
"""The hosts' clocks move with the site's; the server's certificate must not be what ends."""


async def _site(make_site: Any, lifetimes: Lifetimes = LONG) -> Any:
    return await make_site(ManualClock(SystemClock().wall_ms()), lifetimes)


async def _agent(site: Any, ask: Ask, place: Path, name: str, **order: Any) -> AgentIdentity:
    token = await site.token(names=(name,), **order)
    await asyncio.to_thread(enrol, ask(token, place, name), site.clock)
    identity = IdentityFile(place).load()
    assert identity is not None
    return identity


def _days(identity: AgentIdentity) -> float:
    return round(((identity.not_after_ms - identity.not_before_ms) / 1000 - AGENT_BACKDATED_S) / DAY_S, 3)


async def _refused(place: Path, clock: Any) -> RefusalReason:
    with pytest.raises(IdentityRefused) as caught:
        await renew(place, clock)
    return caught.value.reason


async def test_what_a_token_said_holds_at_every_renewal_and_for_its_hosts_alone(
    make_site: Any, ask: Ask, tmp_path: Path
) -> None:
    site = await _site(make_site)
    box, rack = tmp_path / "box", tmp_path / "rack"
    lives = [_days(await _agent(site, ask, box, "pump-7", certificate_lifetime_s=90 * DAY_S))]
    other = _days(await _agent(site, ask, rack, "web01"))
    lives += [_days(await renew(box, site.clock)) for _ in range(2)]
    site.clock.advance(91 * DAY_S)
    lives.append(_days(await renew(box, site.clock)))
    assert lives == [90, 90, 90, 90]
    assert site.enrolment.office.outcomes["recover", "ok"] == 1, "the last one by its key"
    assert other == 7


async def test_a_box_that_was_away_for_months_comes_back_within_its_own_grace(
    make_site: Any, ask: Ask, tmp_path: Path
) -> None:
    site = await _site(make_site)
    box, rack, strict = tmp_path / "box", tmp_path / "rack", tmp_path / "strict"
    await _agent(site, ask, box, "pump-7", expired_grace_s=365 * DAY_S)
    await _agent(site, ask, rack, "web01")
    await _agent(site, ask, strict, "kiosk", expired_grace_s=0)
    site.clock.advance(8 * DAY_S)
    assert await _refused(strict, site.clock) is RefusalReason.TOO_LONG_EXPIRED
    site.clock.advance(362 * DAY_S)
    await site.enrolment.tidy()
    assert (await renew(box, site.clock)).renewals == 1
    site.clock.advance(373 * DAY_S)
    assert await _refused(box, site.clock) is RefusalReason.TOO_LONG_EXPIRED
    await site.enrolment.tidy()
    assert await _refused(rack, site.clock) is RefusalReason.UNKNOWN_AGENT, (
        "its last certificate is forgotten"
    )


async def test_what_a_token_said_is_not_changed_by_collector_toml(
    make_site: Any, ask: Ask, tmp_path: Path
) -> None:
    site = await _site(make_site)
    box, rack = tmp_path / "box", tmp_path / "rack"
    await _agent(site, ask, box, "pump-7", certificate_lifetime_s=90 * DAY_S, expired_grace_s=0)
    await _agent(site, ask, rack, "web01")
    await site.stop()
    site.lifetimes = Lifetimes(agent_s=2 * DAY_S, server_s=3_000 * DAY_S)
    await site.start()
    assert _days(await renew(box, site.clock)) == 90
    assert _days(await renew(rack, site.clock)) == 2
    site.clock.advance(91 * DAY_S)
    assert await _refused(box, site.clock) is RefusalReason.TOO_LONG_EXPIRED


@pytest.mark.parametrize("days", [1, 200])
@pytest.mark.parametrize("end", ["revoke", "retire"])
async def test_no_lifetime_and_no_grace_outlives_a_revocation(
    make_site: Any, ask: Ask, tmp_path: Path, end: str, days: int
) -> None:
    site = await _site(make_site)
    order = {"certificate_lifetime_s": 90 * DAY_S, "expired_grace_s": 365 * DAY_S}
    identity = await _agent(site, ask, tmp_path, "pump-7", **order)
    await getattr(site.hosts, end)(identity.agent_id, actor="ann")
    assert site.hosts.standing(identity.agent_id) is not None
    site.clock.advance(days * DAY_S)
    reason = RefusalReason.REVOKED if end == "revoke" else RefusalReason.RETIRED
    assert await _refused(tmp_path, site.clock) is reason


async def test_an_approved_host_gets_what_its_token_said(make_site: Any, ask: Ask, tmp_path: Path) -> None:
    site = await _site(make_site)
    token = await site.token(names=("pump-7",), approve=True, certificate_lifetime_s=30 * DAY_S)
    assert (await asyncio.to_thread(enrol, ask(token, tmp_path), site.clock))["outcome"] == "pending"
    await site.hosts.approve(site.hosts.live("pump-7").agent_id, actor="ann")
    await asyncio.to_thread(enrol, ask(token, tmp_path), site.clock)
    identity = IdentityFile(tmp_path).load()
    assert identity is not None
    assert _days(identity) == 30


async def test_the_audit_says_what_was_bound(make_site: Any, ask: Ask, tmp_path: Path) -> None:
    site = await _site(make_site)
    await _agent(site, ask, tmp_path / "a", "pump-7", certificate_lifetime_s=90 * DAY_S, expired_grace_s=60)
    await _agent(site, ask, tmp_path / "b", "web01")
    found = [
        (one.verb, detail["certificate_lifetime_s"], detail["expired_grace_s"])
        for one in reversed(site.events())
        if "expired_grace_s" in (detail := json.loads(one.detail))
    ]
    assert found == [
        ("enrolment.create", 90 * DAY_S, 60),
        ("host.enrol", 90 * DAY_S, 60),
        ("enrolment.create", None, None),
        ("host.enrol", 7 * DAY_S, 30 * DAY_S),
    ]


@pytest.mark.parametrize(
    ("key", "flag", "wrong"),
    [
        ("certificate_lifetime_s", "--certificate-lifetime", [0, -1, 59, 3_599, 365 * DAY_S + 1, 1e300]),
        ("expired_grace_s", "--expired-grace", [-1, 730 * DAY_S + 1, float("inf"), float("nan")]),
    ],
)
def test_a_lifetime_that_cannot_be_is_refused_with_what_is_wanted(
    key: str, flag: str, wrong: list[float]
) -> None:
    for value in wrong:
        with pytest.raises(UsageError, match=rf"{flag}: got .* s, wanted .* days"):
            check_order(EnrolmentOrder(names=("a",), **{key: value}))  # type: ignore[arg-type]
