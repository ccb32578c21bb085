"""What the processes of checks say to each other arrives as it was sent, and rubbish is an end."""

import asyncio
import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchbill_agent.checks import wire
from watchbill_agent.checks.check import DETAIL_CHARACTERS_MAX, Happening, Outcome, Samples, Verdict

TEXT = st.text(max_size=20)
VALUES = st.floats(allow_nan=False)


@given(
    st.sampled_from(list(Verdict)),
    st.lists(st.tuples(TEXT, TEXT, VALUES), max_size=20),
    st.dictionaries(TEXT, TEXT | st.integers(-(2**63), 2**63 - 1) | st.booleans()),
)
def test_an_outcome_arrives_as_it_was_sent(verdict, rows, payload):
    samples = Samples()
    for name, label, value in rows:
        samples.gauge(name, "Help.", value, label=label)
    outcome = Outcome(verdict, "why", "got a, wanted b", samples, (Happening("some.kind", payload),))
    sent = wire.frame(wire.Answer(wire.result_of(outcome), {"at": 1}, 0.5))
    answer = wire.receive_here(io.BytesIO(sent), wire.ANSWERS)
    found = wire.outcome_of(answer.result)
    assert (found.verdict, found.reason, found.detail) == (verdict, "why", "got a, wanted b")
    assert found.samples.families == samples.families
    assert found.samples.series == samples.series
    assert found.samples.values == samples.values
    assert found.happenings == outcome.happenings
    assert answer.memory == {"at": 1}


@given(st.binary(max_size=200))
def test_rubbish_is_the_end_of_the_talk(content):
    with pytest.raises(EOFError):
        wire.receive_here(io.BytesIO(b"\x05\x00\x00\x00" + content[:4]), wire.ANSWERS)

    async def receive():
        reader = asyncio.StreamReader()
        reader.feed_data(content)
        reader.feed_eof()
        return await wire.receive(reader, wire.TO_DAEMON)

    with pytest.raises(EOFError):
        asyncio.run(receive())


def test_a_length_that_cannot_be_is_not_waited_for():
    with pytest.raises(EOFError):
        wire.receive_here(io.BytesIO(b"\xff\xff\xff\xff"), wire.ANSWERS)


@given(st.text())
def test_a_detail_is_one_printable_line(text):
    line = wire.one_line(text)
    assert len(line) <= DETAIL_CHARACTERS_MAX
    assert line.isprintable()


def test_numbers_that_are_none_arrive_as_what_they_are():
    assert math.isnan(wire.unpack(wire.pack([math.nan]))[0])
    assert wire.unpack(wire.pack([math.inf, -0.0])) == (math.inf, 0.0)
