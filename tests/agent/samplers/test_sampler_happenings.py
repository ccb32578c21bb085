"""What samplers saw happen is handed on once, in order, and never more than the timeline can bear."""

from watchbill.clock import ManualClock
from watchbill_agent.happenings import PER_MINUTE_MAX, WAITING_MAX, Happenings
from watchbill_agent.samplers import Happening, HostPaths, Layout, Reading, Round, Sampler


class Noisy(Sampler):
    """Sees something at every reading."""

    name = "noisy"
    default_on = False
    interval_s = None
    options_type = type(None)

    def __init__(self, options: object, host: HostPaths) -> None:
        self.readings = 0

    def sample(self) -> Reading:
        self.readings += 1
        self.happenings = (Happening("security.port", {"number": self.readings}),)
        return Reading(Layout((), ()), ())


def numbers(happenings):
    return [happening.payload["number"] for happening in happenings]


def test_what_a_sampler_saw_is_taken_once(host):
    sampling = Round([Noisy(None, host)])
    sampling.run()
    sampling.run()
    assert numbers(sampling.take_happenings()) == [1, 2]
    assert sampling.take_happenings() == []


def test_a_minute_takes_so_many_and_counts_the_rest():
    clock = ManualClock()
    waiting = Happenings(clock)
    waiting.add(Happening("security.port", {"number": number}) for number in range(PER_MINUTE_MAX + 3))
    assert numbers(waiting.take()) == list(range(PER_MINUTE_MAX))
    assert (waiting.told, waiting.dropped) == (PER_MINUTE_MAX, 3)
    clock.advance(60)
    waiting.add([Happening("security.port", {"number": 7})])
    assert numbers(waiting.take()) == [7]


def test_what_nobody_takes_does_not_pile_up():
    clock = ManualClock()
    waiting = Happenings(clock)
    for _ in range(10):
        waiting.add(Happening("security.port", {"number": number}) for number in range(PER_MINUTE_MAX))
        clock.advance(60)
    assert len(waiting.take()) == WAITING_MAX
    assert waiting.dropped == 10 * PER_MINUTE_MAX - WAITING_MAX
