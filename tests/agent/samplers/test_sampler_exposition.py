"""Prometheus text: numbers as Go spells them, and nothing that ends a value too soon."""

import math
import shutil
import struct
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchbill_agent.exposition import render, spell
from watchbill_agent.reading import Family, Layout, MetricType, Reading, Series

# From Go's strconv tests and from node_exporter's own output.
SPELLINGS = [
    (0.0, "0"),
    (-0.0, "-0"),
    (1, "1"),
    (-17, "-17"),
    (0.1, "0.1"),
    (999999, "999999"),
    (1e6, "1e+06"),
    (2366200.0, "2.3662e+06"),
    (1234567.5, "1.2345675e+06"),
    (123456.75, "123456.75"),
    (1.795293859261496e09, "1.795293859261496e+09"),
    (0.0001, "0.0001"),
    (0.00001, "1e-05"),
    (1.5e-7, "1.5e-07"),
    (1e21, "1e+21"),
    (1e100, "1e+100"),
    (5e-324, "5e-324"),
    (2**63, "9.223372036854776e+18"),
    (18446744073709551615, "1.8446744073709552e+19"),
    (math.inf, "+Inf"),
    (-math.inf, "-Inf"),
    (math.nan, "NaN"),
    (struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))[0], "NaN"),
]


@pytest.mark.parametrize(("value", "spelling"), SPELLINGS)
def test_a_number_is_spelled_as_go_spells_it(value, spelling):
    assert spell(value) == spelling


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_spelling_reads_back_as_the_same_number(value):
    spelling = spell(value)
    assert float(spelling) == value
    assert len(spelling.lstrip("-").partition("e")[0].replace(".", "").strip("0")) <= 17


def reading(value: str, help_text: str = "Help.") -> Reading:
    family = Family("hostile", MetricType.GAUGE, help_text)
    return Reading(Layout([family], [Series("hostile", (("name", value),))]), [1])


def test_quotes_backslashes_and_newlines_are_escaped():
    text = render([reading('a "b" \\ \n c', 'help "stays" \\ \n too')])
    assert text.splitlines() == [
        r'# HELP hostile help "stays" \\ \n too',
        "# TYPE hostile gauge",
        r'hostile{name="a \"b\" \\ \n c"} 1',
    ]


def test_one_family_in_two_readings_is_announced_once():
    text = render([reading("a"), reading("b")])
    assert text.count("# TYPE hostile") == 1
    assert text.count("hostile{") == 2


def test_nothing_renders_as_nothing():
    assert render([]) == ""


@pytest.mark.real("promtool")
@pytest.mark.parametrize(
    "value", ["<script>", "'; DROP", "{{7*7}}", "\x1b[31m", "a\tb", "ü\u202e\u0000", "\\", '"}']
)
def test_promtool_reads_hostile_labels(value):
    promtool = shutil.which("promtool")
    assert promtool is not None
    text = render([reading(value)])
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text.encode(), capture_output=True, check=False
    )
    assert done.returncode in (0, 3), done.stderr
