"""When the collector gives memory back: after a burst, and otherwise from time to time."""

from watchbill_collector.memory import BURST_BYTES, GIVE_BACK_S, LULL_BYTES, GivingBack


def test_memory_is_given_back_when_a_burst_is_over() -> None:
    giving = GivingBack(100.0)
    assert not giving.due(101.0, BURST_BYTES), "more may be coming"
    assert not giving.due(102.0, BURST_BYTES + LULL_BYTES), "more was coming"
    assert giving.due(103.0, BURST_BYTES + LULL_BYTES + 1)
    assert not giving.due(104.0, BURST_BYTES + LULL_BYTES + 2), "nothing came since"


def test_memory_is_given_back_from_time_to_time_however_much_comes() -> None:
    giving = GivingBack(100.0)
    steady = [
        giving.due(100.0 + second, second * LULL_BYTES) for second in range(1, 2 * int(GIVE_BACK_S) + 1)
    ]
    assert [number for number, due in enumerate(steady, 1) if due] == [GIVE_BACK_S, 2 * GIVE_BACK_S]
