"""Access logs in every format, quick and exact alike; hostile lines are counted and cost no more than their length."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchbill_agent.checks.check import Samples
from watchbill_agent.checks.log_counts import REQUEST_SERIES_MAX, Clients, Counts
from watchbill_agent.checks.log_format import FIELDS, STATUS, Columns, WrongFormat, compile_format

COMBINED = b'10.0.0.1 - - [29/Nov/2026:19:06:41 +0000] "GET /a/b?c=d HTTP/1.1" 200 512 "https://example.org/" "curl/8"'


def read(text: str, chunk: bytes, *wanted: str, **more):
    return compile_format(text, wanted or FIELDS, **more).read(chunk)


def plain(found: Columns) -> dict[str, list[bytes]]:
    return {name: list(values) for name, values in found.of.items()}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("combined", COMBINED),
        ("common", COMBINED.rpartition(b' "https')[0]),
        ("common", COMBINED),
        ("combined", COMBINED + b" 0.005 and more"),
        ('%h %l %u %t "%r" %>s %b "%{Referer}i" "%{User-Agent}i"', COMBINED),
        ('%h %l %u %t \\"%r\\" %>s %b \\"%{Referer}i\\" \\"%{User-Agent}i\\"', COMBINED),
        (
            '$remote_addr - $remote_user [$time_local] "$request_method $uri?c=d $p" $status $bytes_sent $r',
            COMBINED,
        ),
        ('"$request" ${status} $bytes_sent $remote_addr', b'"GET /a/b HTTP/2.0" 200 512 10.0.0.1'),
        ("%m|%U|%s|%B|%a", b"GET|/a/b|200|512|10.0.0.1"),
    ],
)
def test_a_line_yields_its_fields(text, line):
    found = read(text, line + b"\n")
    assert (found.lines, found.unparsed) == (1, 0)
    assert plain(found) == {
        "status": [b"200"],
        "method": [b"GET"],
        "path": [b"/a/b"],
        "bytes": [b"512"],
        "client": [b"10.0.0.1"],
    }


@pytest.mark.parametrize(
    ("text", "written", "seconds"),
    [
        ("$status $request_time", b"0.125", 0.125),
        ("%s %D", b"125000", 0.125),
        ("%s %T", b"2", 2.0),
        ("%s %{ms}T", b"125", 0.125),
        ("%s %{us}T", b"125000", 0.125),
        ("json", b"0.125", 0.125),
    ],
)
def test_durations_are_seconds_whatever_the_server_writes(text, written, seconds):
    line = b'{"status": 200, "request_time": %s}\n' % written if text == "json" else b"200 " + written + b"\n"
    reader = compile_format(text, FIELDS)
    counts = Counts((0.1, 1.0), reader.duration_unit_s)
    counts.add(reader.read(line))
    assert counts.memory()["sums"] == {"": seconds}


@pytest.mark.parametrize(
    "line",
    [
        COMBINED.replace(b"- -", b"- john q. doe"),
        COMBINED.replace(b"curl/8", b'a \\"quoted\\" agent'),
        COMBINED.replace(b"curl/8", b"\\\\"),
        COMBINED.replace(b"/a/b", b"/a\\x22b"),
        COMBINED.replace(b"curl/8", b""),
        COMBINED.replace(b"curl/8", b"\xff\xfe]["),
        COMBINED.replace(b" 512 ", b" - "),
    ],
)
def test_what_strangers_write_does_not_move_the_fields(line):
    assert plain(read("combined", line + b"\n", STATUS)) == {"status": [b"200"]}


@pytest.mark.parametrize(
    "request_line", [b"-", b"", b"\\x16\\x03\\x01\\x02", b"GET", b"get / HTTP/1.1", b"GET  HTTP/1.0"]
)
def test_a_request_that_is_none_is_counted_without_a_method(request_line):
    found = read("combined", COMBINED.replace(b"GET /a/b?c=d HTTP/1.1", request_line) + b"\n")
    assert (found.unparsed, found.of["status"]) == (0, (b"200",))
    assert found.of["method"][0] in (b"", b"GET")


def test_torn_and_foreign_lines_are_counted_and_the_others_are_read():
    torn = COMBINED[:60]
    chunk = b"\n".join([COMBINED, torn, COMBINED, b"", b"# a comment", COMBINED, b'"' * 6, COMBINED]) + b"\n"
    found = read("combined", chunk, STATUS)
    assert (found.lines, found.unparsed) == (8, 4)
    assert plain(found) == {"status": [b"200"] * 4}


def test_a_line_cannot_be_read_from_the_middle_of_two():
    chunk = COMBINED[:80] + b"\n" + COMBINED[80:] + b"\n"
    assert read("combined", chunk, STATUS).unparsed == 2


@given(
    st.lists(
        st.sampled_from([b" ", b'"', b"\\", b"[", b"]", b"-", b"200", b"\n", b"GET /", b"x", b"\xff"]),
        max_size=40,
    )
)
@settings(deadline=None, max_examples=150)
def test_quick_and_exact_agree_on_anything(pieces):
    """The same chunk with a line that only the exact expression can read: what it says of the others is the same."""
    chunk = b"".join(pieces) + b"\n" + COMBINED + b"\n"
    for wanted in (FIELDS, (STATUS,)):
        reader = compile_format("combined", wanted)
        exact = reader.read(COMBINED.replace(b"curl/8", b'\\"') + b"\n" + chunk)
        found = reader.read(chunk)
        assert found.unparsed == exact.unparsed
        assert {name: list(values) for name, values in found.of.items()} == {
            name: list(values[1:]) for name, values in exact.of.items()
        }


@pytest.mark.parametrize("filling", [b" ", b'"', b"\\", b"[", b"] ", b'" ', b"a", b"- ", b'\\"'])
def test_a_hostile_line_costs_what_its_length_costs(filling):
    line = (filling * 60_000)[:60_000]
    reader = compile_format("combined_time", FIELDS)
    spent = []
    for times in (1, 8):
        before_s = time.process_time()
        reader.read((line[: 7_500 * times] + b"\n") * 3)
        spent.append(time.process_time() - before_s)
    assert spent[1] < 1.0, "a search that grows with the square of the length takes minutes"


def test_json_lines_with_strangers_among_them():
    good = {
        "status": 404,
        "request_method": "PUT",
        "request_time": 0.5,
        "body_bytes_sent": 7,
        "remote_addr": "::1",
    }
    lines = [
        json.dumps(good).encode(),
        b"{",
        b'"text"',
        b"[1]",
        b'{"status": "no"}',
        b'{"status": null}',
        b"\xff",
        b"[" * 9_000,
    ]
    found = read("json", b"\n".join([*lines, json.dumps({**good, "status": "201"}).encode()]) + b"\n")
    assert (found.lines, found.unparsed) == (9, 7)
    assert plain(found)["status"] == [b"404", b"201"]
    assert plain(found)["method"] == [b"PUT", b"PUT"]


@pytest.mark.parametrize(
    ("lines", "statuses"),
    [
        (
            [b'{"status":200,"request_time":0.5}', b'{"status": "404", "request_time": "1.25"}'],
            [b"200", b"404"],
        ),
        ([b'{"a":"\\"status\\":500,","status":200,"request_time":0.5}'], [b"200"]),
        ([b'{"status":200,"request_time":0.5,"a":{"status":500}}', b'{"request_time":1}'], [b"200"]),
        ([b'{"status":200,"request_time":null}', b'{"status":202,"request_time":1e-3}'], [b"200", b"202"]),
        ([b'{"status":2000,"request_time":1}', b'{"status":200,"request_time":1'], []),
    ],
)
def test_json_lines_are_read_the_same_when_only_numbers_are_wanted(lines, statuses):
    chunk = b"\n".join(lines) + b"\n"
    few, all_ = read("json", chunk, "status", "duration"), read("json", chunk)
    assert plain(few)["status"] == statuses
    assert plain(few) == {name: plain(all_)[name] for name in ("status", "duration")}
    assert (few.lines, few.unparsed) == (all_.lines, all_.unparsed)


def test_json_keys_may_lie_within_objects():
    line = b'{"request": {"method": "GET", "uri": "/x"}, "status": 200, "duration": 0.25, "a.b": "client"}\n'
    names = {
        "method": "request.method",
        "path": "request.uri",
        "duration": "duration",
        "client": "a.b",
        "bytes": "no",
    }
    found = plain(read("json", line, names=names))
    assert found["method"] == [b"GET"]
    assert found["path"] == [b"/x"]
    assert found["duration"] == [b"0.25"]
    assert found["client"] == [b"client"]


def test_another_variable_may_hold_a_field():
    names = {"duration": "upstream_response_time", "client": "cookie_session"}
    found = plain(
        read("$status $upstream_response_time $cookie_session $request_time", b"200 0.5 abc 9\n", names=names)
    )
    assert (found["duration"], found["client"]) == ([b"0.5"], [b"abc"])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("combind", "one of common, combined, combined_time, json, or a format with"),
        ("$remote_addr $request_time", "a format with $status or %>s"),
        ("$status$request_time", "text between status and what follows it"),
        ("$status\n$request_time", "a format of one line"),
        ("$status " * 1_000, "at most 2048 characters"),
    ],
)
def test_a_format_that_cannot_be_read_says_what_is_wanted(text, wanted):
    with pytest.raises(WrongFormat) as failed:
        compile_format(text, FIELDS)
    assert wanted in str(failed.value)


def test_too_many_kinds_of_requests_become_classes():
    counts = Counts((1.0,), 1.0)
    statuses = [b"%03d" % code for code in range(100, 600)] * 2
    methods = [b"GET"] * 500 + [b"PUT"] * 500
    counts.add(Columns(1_000, 0, {"status": statuses, "method": methods}))
    samples = Samples()
    counts.put(samples, ("status", "method"))
    assert sum(samples.values) == 1_000
    assert len(samples.values) <= REQUEST_SERIES_MAX + 6
    assert ("code", "5xx") in samples.series[-1].labels


@pytest.mark.parametrize("clients", [0, 1, 500, 100_000])
def test_clients_are_counted_about_right(clients):
    seen = Clients()
    for start in range(0, clients, 5_000):
        seen.add(
            [b"10.%d.%d" % divmod(number, 256) for number in range(start, min(clients, start + 5_000))] * 2
        )
    assert abs(seen.estimate() - clients) <= max(1, clients * 0.02)
