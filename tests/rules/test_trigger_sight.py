"""What triggers see of alerts: those that fire, of rules that were judged, and what is silenced or in maintenance."""

from typing import Any
from zoneinfo import ZoneInfo

import pytest

from watchbill.clock import ManualClock
from watchbill.cron import read_cron
from watchbill_collector.dispatch.matchers import read_match
from watchbill_collector.dispatch.silence import Silence
from watchbill_collector.dispatch.windows import Window
from watchbill_collector.services.trigger_sight import look, quiet

UP = ("up", ())
RULES = ["alert: Down\n    expr: up == 0\n    for: 30s", "alert: Other\n    expr: up == 0"]


def test_alerts_that_fire_are_seen_and_what_was_not_judged_is_not_known(house: Any, rules_text: Any) -> None:
    it = house()
    it.hosts = {"a": {UP: 0}, "b": {UP: 1}}
    it.load(rules_text(RULES))
    seen = look(it.book, {"Down"})
    assert (seen.firing, seen.judged) == ((), frozenset()), "nobody knows whether it fires"
    it.run(2)
    assert look(it.book, {"Down", "Gone"}).judged == {"Down"}
    assert look(it.book, {"Down"}).firing == (), "it is pending"
    it.run(2)
    (one,) = look(it.book, {"Down"}).firing
    assert (one.name, one.labels["instance"], one.fired_ms, one.judged_ms) == (
        "Down",
        "a",
        it.now_ms - 15_000,
        it.now_ms,
    )
    assert (one.every_ms, one.incomplete) == (15_000, "")
    it.hosts["a"] = {UP: 1}
    it.run(1)
    seen = look(it.book, {"Down"})
    assert (seen.firing, seen.judged) == ((), {"Down"})


@pytest.mark.parametrize(("labels", "found"), [({"instance": "a"}, True), ({"instance": "b"}, False)])
def test_silences_and_windows_of_maintenance_are_asked_themselves(
    labels: dict[str, str], found: bool
) -> None:
    clock = ManualClock()
    now_ms = clock.wall_ms()
    match = read_match('instance="a"')
    silence = Silence("s", match, "new disk", "ada", now_ms, now_ms, now_ms + 60_000)
    window = Window("nightly", read_cron("* * * * *"), ZoneInfo("UTC"), 120_000, match)
    asked = quiet(lambda: [silence], lambda: (window,), clock)
    words = ["ada has silenced it: new disk", "it is in maintenance: nightly"]
    assert asked(labels) == (words if found else [])
    clock.advance(60)
    assert asked(labels) == (words[1:] if found else []), "it has ended"
