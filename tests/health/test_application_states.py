"""An application is as its checks say, and as sure as they are."""

import pytest

from watchbill_collector.applications import AppState, Change, SeenCheck, Verdict, apps_of, state_of

OK, WARNING, CRITICAL, UNKNOWN = Verdict


def check(
    verdict: Verdict | None, *, essential: bool = True, name: str = "web", change: Change | None = None
) -> SeenCheck:
    return SeenCheck(name, "shop", "http", essential, verdict, change)


def beside(verdict: Verdict | None) -> SeenCheck:
    """Of a check that is not essential."""
    return check(verdict, essential=False, name="extra")


@pytest.mark.parametrize(
    ("checks", "wanted"),
    [
        ([], "unknown"),
        ([check(OK)], "healthy"),
        ([check(OK), beside(OK)], "healthy"),
        ([check(CRITICAL)], "down"),
        ([check(CRITICAL), check(OK)], "down"),
        ([check(CRITICAL), check(UNKNOWN), beside(CRITICAL)], "down"),
        ([check(OK), beside(CRITICAL)], "degraded"),
        ([check(WARNING)], "degraded"),
        ([check(OK), beside(WARNING)], "degraded"),
        ([check(UNKNOWN), beside(WARNING)], "degraded"),
        ([check(UNKNOWN), check(OK)], "unknown"),
        ([check(None), check(OK)], "unknown"),
        ([check(OK), beside(UNKNOWN)], "healthy"),
        ([check(OK), beside(None)], "healthy"),
        ([check(None), check(None)], "unknown"),
        ([beside(None)], "unknown"),
        ([beside(UNKNOWN)], "healthy"),
    ],
)
def test_the_state_follows_from_the_verdicts(checks: list[SeenCheck], wanted: str) -> None:
    assert state_of(checks, heard=True).value == wanted
    assert state_of(checks, heard=False) is AppState.UNKNOWN


def told(before: Verdict | None, after: Verdict, since_ms: int) -> Change:
    return Change(after, since_ms, before)


@pytest.mark.parametrize(
    ("checks", "state", "since_ms"),
    [
        ([check(OK)], "healthy", 0),
        ([check(OK, change=told(CRITICAL, OK, 5))], "healthy", 5),
        ([check(CRITICAL, change=told(OK, CRITICAL, 5))], "down", 5),
        # It was down already when the second one failed.
        (
            [
                check(CRITICAL, change=told(OK, CRITICAL, 5)),
                check(CRITICAL, name="db", change=told(OK, CRITICAL, 9)),
            ],
            "down",
            5,
        ),
        # What was down is degraded since the essential one came back.
        (
            [
                check(OK, change=told(CRITICAL, OK, 9)),
                check(WARNING, name="db", change=told(OK, WARNING, 5)),
            ],
            "degraded",
            9,
        ),
        # What was told last is not what it shows now: of that nobody knows since when.
        ([check(CRITICAL, change=told(CRITICAL, OK, 5))], "down", 0),
        ([check(OK, change=told(None, OK, 5))], "healthy", 5),
    ],
)
def test_a_state_began_with_the_change_without_which_it_would_be_another(
    checks: list[SeenCheck], state: str, since_ms: int
) -> None:
    (app,) = apps_of(checks, heard=True)
    assert (app.name, app.state.value, app.since_ms) == ("shop", state, since_ms)
    (app,) = apps_of(checks, heard=False)
    assert (app.state, app.since_ms) == (AppState.UNKNOWN, 0)


def test_a_check_of_no_application_makes_none() -> None:
    assert apps_of([SeenCheck("ntp", "", "icmp", True, OK)], heard=True) == ()
