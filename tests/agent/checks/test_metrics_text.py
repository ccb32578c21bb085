"""Pages of metrics are read as Prometheus reads them, and every mistake is told with its line and what was wanted."""

import math
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open
from prometheus_client.parser import text_string_to_metric_families as read_plain

from watchbill_agent.metrics_line import BadMetrics
from watchbill_agent.metrics_text import Reader, TooMany

PLAIN = """\
# HELP http_requests_total The total number of HTTP requests.
# TYPE http_requests_total counter
http_requests_total{method="post",code="200"} 1027 1395066363000
http_requests_total{method="post",code="400"}    3 1395066363000

# Escaping in label values:
msdos_file_access_time_seconds{path="C:\\\\DIR\\\\FILE.TXT",error="Cannot find file:\\n\\"FILE.TXT\\""} 1.458255915e9
metric_without_timestamp_and_labels 12.47
\tsomething_weird { problem = "division by zero" , } +Inf -3982045
# TYPE http_request_duration_seconds histogram
http_request_duration_seconds_bucket{le="0.05"} 24054
http_request_duration_seconds_bucket{le="+Inf"} 144320
http_request_duration_seconds_sum 53423
http_request_duration_seconds_count 144320
# TYPE rpc_duration_seconds summary
rpc_duration_seconds{quantile="0.01"} 3102
rpc_duration_seconds_sum 1.7560473e+07
rpc_duration_seconds_count 2693
# TYPE gone gauge
gone NaN
"""
OPEN = """\
# TYPE acme_http_router_request_seconds summary
# UNIT acme_http_router_request_seconds seconds
# HELP acme_http_router_request_seconds Latency though all of ACME's \\"HTTP\\" request router.
acme_http_router_request_seconds_sum{path="/api/v1",method="GET"} 9036.32
acme_http_router_request_seconds_count{path="/api/v1",method="GET"} 807283.0
acme_http_router_request_seconds_created{path="/api/v1",method="GET"} 1605281325.0
# TYPE go_goroutines gauge
go_goroutines 69 1520879607.789
# TYPE foo histogram
foo_bucket{le="0.1"} 8 123.0 # {} 0.054
foo_bucket{le="+Inf"} 17 123.0 # {trace_id="oHg5SJYRHA0"} 9.8 1520879607.789
foo_count 17 123.0
foo_sum 324789.3 123.0
# TYPE orders counter
orders_total 17
# TYPE build info
build_info{version="1.2"} 1
# TYPE state stateset
state{state="a"} 1
nobody_said 3
# EOF
"""


def read(text, *, openmetrics=False, reader=None, series_max=10_000):
    reader = reader or Reader()
    body = text if isinstance(text, bytes) else text.encode()
    for _ in reader.read(body, openmetrics=openmetrics, series_max=series_max):
        pass
    return reader


def found(reader):
    pairs = zip(reader.shape.series, reader.values, strict=True)
    return {(one.name, one.labels): value for one, value in pairs}


def by_the_client(parse, text):
    return {
        (sample.name, tuple(sorted((name, value) for name, value in sample.labels.items() if value))): sample.value
        for family in parse(text)
        for sample in family.samples
    }  # fmt: skip


def same(ours, theirs):
    def key(values):
        return {name: "NaN" if math.isnan(value) else value for name, value in values.items()}

    return key(ours) == key(theirs)


@pytest.mark.parametrize(("text", "openmetrics"), [(PLAIN, False), (OPEN, True)])
def test_the_formats_own_examples_are_read_as_the_client_library_reads_them(text, openmetrics):
    reader = read(text, openmetrics=openmetrics)
    assert same(found(reader), by_the_client(read_open if openmetrics else read_plain, text))
    types = {one.name: one.type for one in reader.shape.series}
    if openmetrics:
        assert types["acme_http_router_request_seconds_sum"] == "summary"
        assert types["foo_bucket"] == "histogram"
        assert types["orders_total"] == "counter"
        assert types["nobody_said"] == ""
        help_ = {one.name: one.help for one in reader.shape.series}["acme_http_router_request_seconds_sum"]
        assert help_ == 'Latency though all of ACME\'s "HTTP" request router.'
    else:
        assert types["rpc_duration_seconds"] == "summary"
        assert types["metric_without_timestamp_and_labels"] == ""


def test_quoted_names_may_be_any_text():
    text = '# TYPE "my.metric" gauge\n{"my.metric","la bel"="v"} 1\n{a="b","other.one"} 2\n'
    for openmetrics in (False, True):
        reader = read(text + "# EOF\n" * openmetrics, openmetrics=openmetrics)
        assert found(reader) == {("my.metric", (("la bel", "v"),)): 1, ("other.one", (("a", "b"),)): 2}
        assert reader.shape.series[0].type == "gauge"


BAD_PLAIN = [
    ("a 1\nb", 2, "a line end behind the last line"),
    ("a 1", 1, "a line end"),
    ("a\n", 1, "a value in column 2"),
    ("a one\n", 1, "a value, a number"),
    ("a 1_0\n", 1, "a number"),
    ("a 0x10\n", 1, "a number"),
    ("a 1e999\n", 1, "a number"),
    ("a +NaN\n", 1, "a number"),
    ("a 1\r\n", 1, "a number"),
    ("a 1 2.5\n", 1, "whole milliseconds"),
    ("a 1 2 3\n", 1, "the end of the line"),
    ('a 1 # {x="y"} 1\n', 1, "milliseconds"),
    ("9a 1\n", 1, "the name of a metric"),
    ("a-b 1\n", 1, "a value, a number"),
    ("{} 1\n", 1, "the name of a metric"),
    ("a{ 1\n", 1, "the name of a label"),
    ('a{b="c" 1\n', 1, '"," or "}"'),
    ('a{b="c}\n', 1, "a text in quotes"),
    ("a{b=c} 1\n", 1, "a value in quotes"),
    ("a{b} 1\n", 1, '"="'),
    ('a{,b="c"} 1\n', 1, "the name of a label"),
    ('a{b="c",,} 1\n', 1, "the name of a label"),
    ('a{b="c",b="d"} 1\n', 1, "another label than b"),
    ('a{b="\\q"} 1\n', 1, '\\\\, \\" or \\n'),
    ('a{1b="c"} 1\n', 1, "the name of a label"),
    ("# TYPE a counted\n", 1, "one of counter, gauge"),
    ("# TYPE a gauge\n# TYPE a gauge\n", 2, "one TYPE of a"),
    ("a 1\n# TYPE a gauge\n", 2, "before its samples"),
    ("# HELP a x\n# HELP a y\n", 2, "one HELP of a"),
    ("# HELP a x\\q\n", 1, "in a help text"),
    ("# TYPE \n", 1, "the name of a metric"),
    ("# TYPE a histogram\na_bucket 1\n", 2, "a label le"),
    ('# TYPE a histogram\na_bucket{le="x"} 1\n', 2, "a number as le"),
    ('# TYPE a summary\na{quantile="x"} 1\n', 2, "a number as quantile"),
]
BAD_OPEN = [
    ("a 1\n", 2, '"# EOF" as the last line'),
    ("", 1, '"# EOF" as the last line'),
    ("# EOF\na 1\n", 2, 'nothing behind "# EOF"'),
    ("\n# EOF\n", 1, "a sample or a comment"),
    ("#EOF\n", 1, "# HELP, # TYPE, # UNIT or # EOF"),
    ("# comment\n# EOF\n", 1, "# HELP, # TYPE, # UNIT or # EOF"),
    (" a 1\n# EOF\n", 1, "the name of a metric"),
    ("a  1\n# EOF\n", 1, "a value in column 3"),
    ("a 1 \n# EOF\n", 1, "a timestamp"),
    ("a\t1\n# EOF\n", 1, "a blank"),
    ("a 1 now\n# EOF\n", 1, "a timestamp, a number"),
    ("a 1 NaN\n# EOF\n", 1, "a finite timestamp"),
    ('a{b="c",} 1\n# EOF\n', 1, "the name of a label"),
    ('a{ b="c"} 1\n# EOF\n', 1, "the name of a label"),
    ("# TYPE a untyped\n# EOF\n", 1, "one of counter, gauge"),
    ("# UNIT a seconds\n# EOF\n", 1, "a unit that the name ends with"),
    ("# TYPE a counter\na 1\n# EOF\n", 2, "a_total or a_created, as a counter has"),
    ("# TYPE a gauge\na_sum 1\na 1\n# EOF\n", 3, "all of a together"),
    ("a 1\nb 1\na{c=\"d\"} 1\n# EOF\n", 3, "all of a together"),
    ("a 1\n# HELP a x\n# EOF\n", 2, "before its samples"),
    ("# TYPE a gauge\n# TYPE b gauge\n# HELP a x\n# EOF\n", 3, "all of a together"),
    ("# TYPE a gauge\na 1 # {} 1\n# EOF\n", 2, "an exemplar on buckets and counters"),
    ("# TYPE a counter\na_total 1 # x\n# EOF\n", 2, "the end of the line"),
    ("# TYPE a counter\na_total 1 # {} \n# EOF\n", 2, "the value of an exemplar"),
    ("# TYPE a counter\na_total 1 # {} 1 2 3\n# EOF\n", 2, "the end of the line"),
    ("# TYPE a counter\na_total 1 # {x=\"" + "y" * 130 + "\"} 1\n# EOF\n", 2, "at most 128 characters"),
    ("# TYPE a stateset\na 1\n# EOF\n", 2, "a label a on a"),
    ("# TYPE a summary\na 1\n# EOF\n", 2, "a label quantile"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line", "wanted", "openmetrics"),
    [(*case, False) for case in BAD_PLAIN] + [(*case, True) for case in BAD_OPEN],
)
def test_every_mistake_is_told_with_its_line_and_what_was_wanted(text, line, wanted, openmetrics):
    with pytest.raises(BadMetrics) as raised:
        read(text, openmetrics=openmetrics)
    assert raised.value.line == line
    assert wanted in str(raised.value)
    assert len(str(raised.value)) <= 300
    assert str(raised.value).isprintable()


def test_what_is_not_utf_8_is_told_with_its_line():
    with pytest.raises(BadMetrics, match="line 2: got byte 0xff, wanted UTF-8"):
        read(b"a 1\nb\xff 1\n")


def test_what_is_refused_in_openmetrics_is_refused_by_the_client_library_too():
    lenient = set()
    for text, _, wanted in BAD_OPEN:
        try:
            list(read_open(text))
        except Exception:  # noqa: BLE001 - It raises whatever comes.
            continue
        lenient.add(wanted)
    # What the specification forbids and that library takes.
    assert lenient <= {"the name of a label"}


@pytest.mark.real("promtool")
def test_what_is_refused_in_0_0_4_is_refused_by_promtool_too():
    taken = set()
    for text, _, _ in BAD_PLAIN[::3]:
        done = subprocess.run(
            ["promtool", "check", "metrics"], input=text.encode(), capture_output=True, check=False
        )
        if b"error while linting" not in done.stderr + done.stdout:
            taken.add(text)
    assert taken <= {"# TYPE \n", "# TYPE a histogram\na_bucket 1\n"}


def test_a_page_is_read_fast_as_long_as_only_its_values_change():
    reader = read(PLAIN.replace(" 1395066363000", ""))
    shape = reader.shape
    read(PLAIN.replace(" 1395066363000", "").replace("1027", "1028"), reader=reader)
    assert reader.shape is shape
    assert found(reader)["http_requests_total", (("code", "200"), ("method", "post"))] == 1028
    read(PLAIN, reader=reader)
    assert reader.shape is not shape
    for worse in ("1_0", "+NaN", "1e999", "1\r", "", "x", "\u0661"):
        with pytest.raises(BadMetrics):
            read(f"a {worse}\n", reader=read("a 1\n"))
    assert found(read("a +Inf\n", reader=read("a 1\n"))) == {("a", ()): math.inf}


def test_of_two_samples_of_one_series_the_first_counts():
    reader = read('a{b="c"} 1\na{b="c"} 2\nd 3\n')
    assert found(reader) == {("a", (("b", "c"),)): 1, ("d", ()): 3}
    assert reader.shape.duplicates == 1
    read('a{b="c"} 4\na{b="c"} 5\nd 6\n', reader=reader)
    assert found(reader) == {("a", (("b", "c"),)): 4, ("d", ()): 6}


def test_more_series_than_are_wanted_end_the_reading():
    with pytest.raises(TooMany):
        read("a 1\nb 1\n", series_max=1)


NAMES = st.from_regex(r"[a-z_:][a-z0-9_:]{0,5}", fullmatch=True)
LABELS = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9_]{0,3}", fullmatch=True), st.text('ab\\"\n é{},=#', max_size=6), max_size=3
)
VALUES = st.floats() | st.integers(-(10**6), 10**6)


def spelled(name, labels, value):
    def escaped(text):
        return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    inner = ",".join(f'{label}="{escaped(text)}"' for label, text in labels.items())
    return f"{name}{{{inner}}} {value!r}\n" if inner else f"{name} {value!r}\n"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(NAMES, LABELS, VALUES, VALUES), max_size=8))
def test_pages_that_are_right_are_read_as_the_client_library_reads_them(samples):
    # An empty label is none.
    unique = {(one[0], *sorted(pair for pair in one[1].items() if pair[1])): one for one in samples}
    text = "".join(spelled(*one[:3]) for one in unique.values())
    reader = read(text)
    assert same(found(reader), by_the_client(read_plain, text))
    again = "".join(spelled(name, labels, later) for name, labels, _, later in unique.values())
    assert same(found(read(again, reader=reader)), found(read(again)))
    fewer = "# TYPE another gauge\n" + "".join(again.splitlines(keepends=True)[::2]) + "another 1\n"
    assert same(found(read(fewer, reader=reader)), found(read(fewer)))
    assert [one.type for one in reader.shape.series] == [one.type for one in read(fewer).shape.series]


@settings(max_examples=80, deadline=None)
@given(st.text('ab_1{}",=\\ \t\n#.+-eNIinfTYPHELUOF', max_size=60) | st.binary(max_size=40), st.booleans())
def test_whatever_a_page_is_it_is_read_or_refused(text, openmetrics):
    try:
        reader = read(text, openmetrics=openmetrics)
    except BadMetrics:
        return
    assert len(reader.values) == len(reader.shape.series)
    read(text, openmetrics=openmetrics, reader=reader)
