"""systemd itself says when a calendar event comes; ours comes then too, wherever clocks are left alone."""

import os
import re
import subprocess
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchbill.backups.schedule import WITHIN_MS, Schedule

pytestmark = pytest.mark.real("systemd-analyze")
BASE = "2026-02-11 13:37:42"
BASE_MS = round(datetime.fromisoformat(BASE).replace(tzinfo=UTC).timestamp() * 1000)
_ELAPSE = re.compile(r"(?:Next elapse|Iter\. #\d+|Iteration #\d+): \w+ (\S+ \S+) UTC")


def systemd(event: str, count: int) -> list[int]:
    """When it comes next, by systemd; until it does not come for as long as we look ahead."""
    answer = subprocess.run(
        ["systemd-analyze", "calendar", f"--base-time={BASE}", f"--iterations={count}", event],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
        env=os.environ | {"TZ": "UTC", "LC_ALL": "C"},
    )
    found: list[int] = []
    for shown in _ELAPSE.findall(answer.stdout):
        at_ms = round(datetime.fromisoformat(shown).replace(tzinfo=UTC).timestamp() * 1000)
        if at_ms > WITHIN_MS + (found[-1] if found else BASE_MS):
            break
        found.append(at_ms)
    return found


def ours(event: str, count: int) -> list[int]:
    schedule = Schedule(calendar=event)
    assert schedule.fault() == "", event
    found, at_ms = [], BASE_MS
    for _ in range(count):
        at_ms = schedule.next(at_ms)
        if not at_ms:
            break
        found.append(at_ms)
    return found


@pytest.mark.parametrize(
    "event",
    [
        "Mon..Fri 02:15",
        "Sat,Sun 04:00",
        "*-*-01 03:00",
        "*-*~01 03:00",
        "Mon *-*~07/1 02:15",
        "*-02-29 00:00",
        "2026-12-24 18:30",
        "*-01,07-01 00:00:30",
        "*-*-* 00/6:30",
        "*:0/15",
        "05:40",
        "minutely",
        "hourly",
        "daily",
        "weekly",
        "monthly",
        "quarterly",
        "semiannually",
        "yearly",
        "Fri *-*-13 12:00",
        "Wed..Sat,Tue 2027-10-15 1:2:3",
        "2026..2027-*-* 12:00",
    ],
)
def test_an_event_comes_when_systemd_says(event):
    assert ours(event, 4) == systemd(event, 4)


DAYS = st.sampled_from(["", "Mon ", "Mon..Wed ", "Sat,Sun ", "Fri,Mon..Tue "])
DATES = st.one_of(
    st.sampled_from(["", "*-*-* ", "*-*-15 ", "*-*~3 ", "*-03,09-* ", "*-*-1..7 ", "2026-*-2/7 "]),
    st.builds("*-{:02d}-{:02d} ".format, st.integers(1, 12), st.integers(1, 28)),
)
TIMES = st.one_of(
    st.builds("{:02d}:{:02d}".format, st.integers(0, 23), st.integers(0, 59)),
    st.sampled_from(["00/4:10", "*:30", "8..17:00", "2,14:05:07", "*:0/20"]),
)


@settings(max_examples=20, deadline=None)
@given(DAYS, DATES, TIMES)
def test_any_event_comes_when_systemd_says(days, date, time):
    event = f"{days}{date}{time}"
    assert ours(event, 3) == systemd(event, 3)
