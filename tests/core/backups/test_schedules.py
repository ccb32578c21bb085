"""When a job is due: cron lines and calendar events, also in the nights that clocks are changed."""

import random
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchbill.backups.schedule import Schedule

BERLIN = "Europe/Berlin"
DAY_MS = 86_400_000


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def shown(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%m-%d %H:%M}"


def following(schedule: Schedule, after: str, count: int) -> list[str]:
    """The next due times, in UTC."""
    found, at_ms = [], ms(after)
    for _ in range(count):
        at_ms = schedule.next(at_ms)
        found.append(shown(at_ms))
    return found


SPRING, AUTUMN = "2026-03-28T12:00", "2026-10-24T12:00"
NIGHTS = [
    # A time that does not exist comes as much later as the clock jumped: 02:30 is 03:30 CEST.
    ("30 2 * * *", "*-*-* 02:30", SPRING, ["03-29 01:30", "03-30 00:30"]),
    ("0 2 * * *", "*-*-* 02:00", SPRING, ["03-29 01:00", "03-30 00:00"]),
    ("30 1 * * *", "*-*-* 01:30", SPRING, ["03-29 00:30", "03-29 23:30"]),
    # A time that exists twice comes once, the first time.
    ("30 2 * * *", "*-*-* 02:30", AUTUMN, ["10-25 00:30", "10-26 01:30"]),
    ("0 3 * * *", "*-*-* 03:00", AUTUMN, ["10-25 02:00", "10-26 02:00"]),
    # What comes in each hour goes by real time.
    (
        "30 * * * *",
        "*-*-* *:30",
        "2026-10-24T23:00",
        ["10-24 23:30", "10-25 00:30", "10-25 01:30", "10-25 02:30"],
    ),
    ("30 * * * *", "*-*-* *:30", "2026-03-28T23:00", ["03-28 23:30", "03-29 00:30", "03-29 01:30"]),
]


@pytest.mark.parametrize(("cron", "calendar", "after", "wanted"), NIGHTS)
def test_nights_that_clocks_are_changed_are_the_same_for_both(cron, calendar, after, wanted):
    assert following(Schedule(cron=cron, zone=BERLIN), after, len(wanted)) == wanted
    assert following(Schedule(calendar=calendar, zone=BERLIN), after, len(wanted)) == wanted


ANY = st.sampled_from(
    [
        Schedule(cron="15 2 * * *", zone=BERLIN),
        Schedule(cron="30 2 * * *", zone=BERLIN),
        Schedule(cron="*/20 * * * *", zone="Australia/Lord_Howe"),
        Schedule(cron="0 0 29 2 *", zone="UTC"),
        Schedule(cron="0 1 * * sun#1", zone="America/New_York"),
        Schedule(calendar="Mon..Fri 02:15", zone=BERLIN),
        Schedule(calendar="*-*-01 02:30", zone=BERLIN),
        Schedule(calendar="*-*-* *:00/15", zone="America/St_Johns"),
        Schedule(calendar="weekly", zone="Pacific/Apia"),
        Schedule(calendar="hourly", zone=BERLIN),
        Schedule(calendar="Sun 2026-*-* 02:30 Europe/Berlin"),
    ]
)
MOMENTS = st.integers(ms("2026-01-01"), ms("2026-12-31"))


@settings(max_examples=60, deadline=None)
@given(ANY, MOMENTS)
def test_the_latest_and_the_next_agree(schedule, now_ms):
    """Nothing lies between the two, and each is what the other finds from beyond it."""
    next_ms, latest_ms = schedule.next(now_ms), schedule.latest(now_ms)
    assert next_ms == 0 or next_ms > now_ms
    assert latest_ms <= now_ms
    if latest_ms:
        assert schedule.latest(latest_ms) == latest_ms
        assert schedule.next(latest_ms - 1) == latest_ms
        assert schedule.next(latest_ms) == next_ms
    if next_ms:
        assert schedule.latest(next_ms - 1) == latest_ms
        assert schedule.latest(next_ms) == next_ms


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 59), st.integers(0, 23), st.sampled_from(["2026-03-2", "2026-10-2"]), st.integers(0, 9))
def test_a_daily_time_comes_once_a_day_whatever_clocks_do(minute, hour, decade, day):
    """27 hours hold a day of any length; a fixed time never comes twice in 22."""
    schedule = Schedule(cron=f"{minute} {hour} * * *", zone=BERLIN)
    start = ms(f"{decade}{day}")
    first = schedule.next(start)
    second = schedule.next(first)
    assert 0 < first - start <= 27 * 3_600_000
    assert 22 * 3_600_000 <= second - first <= 26 * 3_600_000


@pytest.mark.parametrize(
    ("schedule", "says"),
    [
        (Schedule(cron="61 2 * * *"), "minute"),
        (Schedule(cron="15 2 * *"), "4 fields"),
        (Schedule(cron="0 0 30 2 *"), "day of month"),
        (Schedule(cron="x" * 300), "300 characters"),
        (Schedule(calendar="Foo 02:15"), ""),
        (Schedule(calendar="*-*-* *:*:00/10"), "more than once in 60 s"),
        (Schedule(calendar="Mon 02:15 Mars/Olympus"), "no time zone"),
        (Schedule(calendar="*-02-30 00:00"), "never"),
        (Schedule(cron="15 2 * * *", zone="Mars/Olympus"), "no time zone"),
        (Schedule(cron="15 2 * * *", zone="../../etc/passwd"), "no time zone"),
        (Schedule(cron="15 2 * * *", calendar="weekly"), "more than one"),
        (Schedule(cron="15 2 * * *", every_s=60.0), "more than one"),
    ],
)
def test_what_is_no_schedule_says_why(schedule, says):
    fault = schedule.fault()
    assert fault
    assert says in fault


def test_what_does_not_go_by_the_clock_is_never_due_by_it():
    for schedule in (Schedule(), Schedule(every_s=3600.0)):
        assert not schedule.by_the_clock
        assert schedule.fault() == ""
        assert schedule.latest(ms("2026-06-01")) == schedule.next(ms("2026-06-01")) == 0


def test_a_leap_day_is_found_years_away_and_one_beyond_the_bound_is_not():
    leap = Schedule(cron="0 3 29 2 *")
    assert leap.next(ms("2026-06-01")) == ms("2028-02-29T03:00")
    assert leap.latest(ms("2026-06-01")) == ms("2024-02-29T03:00")
    assert leap.next(ms("2026-06-01"), within_ms=365 * DAY_MS) == 0


def test_an_event_of_the_past_has_a_latest_and_no_next():
    once = Schedule(calendar="2099-06-01 02:00")
    assert once.next(ms("2099-01-01")) == ms("2099-06-01T02:00")
    assert once.next(ms("2099-06-02")) == 0
    assert once.latest(ms("2099-06-02")) == ms("2099-06-01T02:00")


def test_the_zone_of_an_event_wins_over_that_of_its_job():
    in_tokyo = Schedule(calendar="*-*-* 02:15 Asia/Tokyo", zone=BERLIN)
    assert following(in_tokyo, "2026-06-01T00:00", 1) == ["06-01 17:15"]


def test_due_times_over_a_year_never_leave_out_or_repeat_a_day():
    """365 times a year in a zone with two changes of the clock, also at the times that are changed."""
    for hour in (*random.Random(7).sample(range(24), 3), 2):
        schedule = Schedule(cron=f"30 {hour} * * *", zone=BERLIN)
        at_ms, days = ms("2026-01-01") - 1, 0
        while (at_ms := schedule.next(at_ms)) < ms("2027-01-01"):
            days += 1
        assert days == 365, hour
