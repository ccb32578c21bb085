"""Those who are turned away are recorded, and cannot fill the disk."""

from watchbill.clock import ManualClock
from watchbill_collector.audit import Refusals, Turned


def stranger(number: int, reason: str = "token") -> Turned:
    return Turned("", f"192.0.2.{number % 250}", "access", "/x", reason)


def test_the_first_is_a_row_and_the_rest_is_a_number() -> None:
    clock = ManualClock()
    refusals = Refusals(clock)
    first = refusals.note(stranger(1))
    assert first is not None
    assert (first.actor, first.outcome) == ("anonymous", "refused")
    assert [refusals.note(stranger(1)) for _ in range(1000)] == [None] * 1000
    assert list(refusals.summary()) == []
    clock.advance(601)
    (summed,) = refusals.summary()
    assert summed.detail["times_more"] == 1000
    assert refusals.counted == 1001


def test_a_flood_from_everywhere_for_a_day_stays_under_the_bound_and_is_counted_whole() -> None:
    clock = ManualClock()
    refusals = Refusals(clock)
    rows = counted = 0
    for minute in range(24 * 60):
        clock.advance(60)
        for number in range(50):
            sent = Turned("", f"198.51.{minute % 250}.{number}", "access", "/x", "token")
            rows += refusals.note(sent) is not None
        for entry in refusals.summary():
            rows += 1
            counted += int(str(entry.detail["times_more"]))
    left = refusals.rest()
    counted += sum(int(str(entry.detail["times_more"])) for entry in left)
    assert rows <= 3_024 + 60
    assert refusals.counted == 24 * 60 * 50
    singles = refusals.counted - counted
    assert 0 < singles <= rows + len(left), "every refusal is in a row of its own or in a number"


def test_the_noise_of_strangers_does_not_hide_what_a_colleague_tried() -> None:
    refusals = Refusals(ManualClock())
    for number in range(10_000):
        refusals.note(Turned("", f"198.51.{number % 250}.{number // 250}", "access", "/x", "token"))
    found = refusals.note(Turned("bob", "192.0.2.9", "hosts.retire", "web1", "role"))
    assert found is not None
    assert found.actor == "bob"
