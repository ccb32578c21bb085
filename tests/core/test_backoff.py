"""Waits between tries."""

import pytest

from watchbill.backoff import CAP_S, Backoff


class Highest:
    """Jitter that always takes the ceiling."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_the_ceiling_doubles_to_the_cap_and_stays_there():
    backoff = Backoff(jitter=Highest())
    assert [backoff.next_s() for _ in range(9)] == [1, 2, 4, 8, 16, 32, 64, 120, 120]
    backoff.failures = 5_000
    assert backoff.next_s() == CAP_S


def test_every_wait_is_between_nothing_and_the_ceiling():
    backoff = Backoff()
    for failures in range(50):
        backoff.failures = failures
        assert 0 <= backoff.next_s() <= min(120, 2**failures)


def test_what_the_peer_asked_for_comes_before_the_jitter():
    assert Backoff(jitter=Highest()).next_s(at_least_s=30) == 31


@pytest.mark.parametrize(("session_s", "expected"), [(0, 4), (59.9, 4), (60, 7), (86_400, 7)])
def test_only_a_healthy_session_starts_the_waits_anew(session_s, expected):
    backoff = Backoff(jitter=Highest())
    backoff.next_s()
    backoff.next_s()
    assert backoff.ended_s(session_s, spread_s=7) == expected
