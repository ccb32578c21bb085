"""Definitions and records as they travel: the same bytes for the same thing, strangers' fields left out, the impossible
refused."""

import json
from dataclasses import fields, replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchbill.backups.definition import (
    COPIES_MAX,
    JOB_NAME_CHARACTERS_MAX,
    SPAN_S_MAX,
    Copy,
    Definition,
    ProofAges,
    Requirement,
    Retention,
    Severities,
    SizeLimits,
    read_definition,
)
from watchbill.backups.record import (
    ERROR_CHARACTERS_MAX,
    ERRORS_MAX,
    NUMBER_MAX,
    PARTS_MAX,
    SNAPSHOTS_PER_RECORD_MAX,
    TAIL_CHARACTERS_MAX,
    Kind,
    Level,
    Outcome,
    Proof,
    Record,
    Snapshots,
    Source,
    Usage,
    new_id,
    read_record,
)
from watchbill.backups.schedule import Schedule
from watchbill.errors import Unreadable

WHOLE = Definition(
    name="files-nightly",
    tool="restic",
    service="files",
    schedule=Schedule(cron="15 2 * * *", zone="Europe/Berlin"),
    max_duration_s=4 * 3600.0,
    min_duration_s=20.0,
    rpo_s=26 * 3600.0,
    size=SizeLimits(min_bytes=10 << 30, drop=0.3),
    retention=Retention(keep_s=30 * 86400.0, min_copies=7),
    verify=ProofAges(structure_s=7 * 86400.0, data_s=30 * 86400.0, restore_s=90 * 86400.0),
    copies=(
        Copy(name="nas", location="rack-a", media="disk"),
        Copy(name="cloud", location="offsite", immutable=True),
    ),
    require=Requirement(copies=2, offsite=1, immutable=1),
    severity=Severities(failed="info"),
    observed=True,
    observe_every_s=3600.0,
)
PLAIN = Record(
    record_id="0" * 32,
    job="j",
    kind=Kind.RUN,
    source=Source.WRAP,
    outcome=Outcome.OK,
    observed_ms=1_780_000_000_000,
)


def test_a_definition_comes_back_as_it_was_sent_and_its_digest_is_its_own():
    assert read_definition(WHOLE.to_json()) == WHOLE
    assert read_definition(WHOLE.to_json()).digest() == WHOLE.digest()
    assert replace(WHOLE, rpo_s=1.0).digest() != WHOLE.digest()
    assert WHOLE.copies[1].offsite
    assert not WHOLE.copies[0].offsite


def test_what_a_newer_agent_says_beyond_it_is_left_out():
    newer = json.loads(WHOLE.to_json()) | {"moon": "full"}
    assert read_definition(json.dumps(newer).encode()) == WHOLE
    record = json.loads(PLAIN.to_json()) | {"moon": "full"}
    assert read_record(json.dumps(record).encode()) == PLAIN


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"name": ""}, "name of 0"),
        ({"name": "x" * (JOB_NAME_CHARACTERS_MAX + 1)}, "name of"),
        ({"copies": tuple(Copy(name=f"c{n}") for n in range(COPIES_MAX + 1))}, "copies"),
        ({"copies": (Copy(name="a"), Copy(name="a"))}, "one name"),
        ({"rpo_s": -1.0}, "duration"),
        ({"rpo_s": SPAN_S_MAX + 1}, "duration"),
        ({"retention": Retention(keep_s=-1.0)}, "duration"),
        ({"size": SizeLimits(drop=1.5)}, "size"),
        ({"size": SizeLimits(window=0)}, "size"),
        ({"schedule": Schedule(cron="never")}, "5"),
    ],
)
def test_an_impossible_definition_is_refused_with_what_is_wrong(changed, says):
    with pytest.raises(Unreadable, match=says):
        read_definition(replace(WHOLE, **changed).to_json())


@pytest.mark.parametrize(
    "document", [b"", b"{", b"[]", b'{"name": 5, "tool": "x"}', b'{"tool": "x"}', b"\xff\xfe"]
)
def test_what_is_no_document_is_refused(document):
    with pytest.raises(Unreadable):
        read_definition(document)
    with pytest.raises(Unreadable):
        read_record(document)


PRINTABLE = st.characters(exclude_categories=("C", "Z"))
TEXTS = st.text(PRINTABLE, max_size=40)
TIMES = st.integers(0, NUMBER_MAX)
COUNTS = st.none() | st.integers(0, NUMBER_MAX)
RECORDS = st.builds(
    Record,
    record_id=st.builds(new_id),
    job=st.text(PRINTABLE, min_size=1, max_size=JOB_NAME_CHARACTERS_MAX),
    kind=st.sampled_from(Kind),
    source=st.sampled_from(Source),
    outcome=st.sampled_from(Outcome),
    observed_ms=TIMES,
    run_id=st.just("") | st.builds(new_id),
    copy=TEXTS,
    started_ms=TIMES,
    finished_ms=TIMES,
    exit_code=st.none() | st.integers(-256, 256),
    point_ms=TIMES,
    bytes_source=COUNTS,
    bytes_stored=COUNTS,
    files=COUNTS,
    files_failed=COUNTS,
    errors=st.lists(TEXTS, max_size=ERRORS_MAX).map(tuple),
    tail=st.text(PRINTABLE, max_size=200),
    verify=st.none()
    | st.builds(
        Proof, level=st.sampled_from(Level), ok=st.booleans(), fraction=st.floats(0, 1), bad=st.integers(0, 9)
    ),
    snapshots=st.none()
    | st.builds(
        Snapshots,
        count=st.integers(0, 10_000),
        oldest_ms=TIMES,
        newest_ms=TIMES,
        parts=st.just(1),
        listed=st.lists(st.tuples(TEXTS, TIMES), max_size=5).map(tuple),
    ),
    repo_locked=st.none() | st.booleans(),
    usage=st.none() | st.builds(Usage, cpu_user_s=st.floats(0, 1e6), rss_bytes_max=st.integers(0, 1 << 40)),
)


@settings(max_examples=30, deadline=None)
@given(RECORDS)
def test_any_record_comes_back_as_it_was_sent(record):
    assert read_record(record.to_json()) == record
    assert read_record(record.to_json()).to_json() == record.to_json()


def test_a_record_is_short_when_little_is_known_and_keeps_what_is_zero():
    assert set(json.loads(PLAIN.to_json())) == {
        "record_id",
        "job",
        "kind",
        "source",
        "outcome",
        "observed_ms",
    }
    zero = msgspec.structs.replace(PLAIN, exit_code=0, bytes_source=0, files_failed=0)
    assert read_record(zero.to_json()) == zero


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"record_id": "no id"}, "id"),
        ({"record_id": "A" * 32}, "id"),
        ({"run_id": "0" * 31}, "id"),
        ({"job": ""}, "name"),
        ({"job": "x" * (JOB_NAME_CHARACTERS_MAX + 1)}, "name"),
        ({"errors": ("x",) * (ERRORS_MAX + 1)}, "errors"),
        ({"errors": ("x" * (ERROR_CHARACTERS_MAX + 1),)}, "errors"),
        ({"tail": "x" * (TAIL_CHARACTERS_MAX + 1)}, "tail"),
        ({"reason": "x" * 300}, "text"),
        ({"observed_ms": -1}, "outside"),
        ({"point_ms": NUMBER_MAX + 1}, "outside"),
        ({"bytes_source": -1}, "count"),
        ({"files": NUMBER_MAX + 1}, "count"),
        ({"verify": Proof(level=Level.DATA, ok=True, fraction=1.5)}, "1.5"),
        ({"verify": Proof(level=Level.DATA, ok=False, bad=-1)}, "count"),
        ({"snapshots": Snapshots(count=-1)}, "count"),
        ({"snapshots": Snapshots(count=1, newest_ms=1 << 62)}, "outside"),
        ({"snapshots": Snapshots(count=1, parts=1, listed=(("a", -5),))}, "outside"),
        ({"snapshots": Snapshots(count=1, parts=PARTS_MAX + 1)}, "part"),
        ({"snapshots": Snapshots(count=1, parts=2, part=2)}, "part"),
        ({"snapshots": Snapshots(count=1, parts=2, part=-1)}, "outside"),
        (
            {"snapshots": Snapshots(count=1, parts=1, listed=(("a", 1),) * (SNAPSHOTS_PER_RECORD_MAX + 1))},
            "snapshots",
        ),
    ],
)
def test_an_impossible_record_is_refused_with_what_is_wrong(changed, says):
    with pytest.raises(Unreadable, match=says):
        read_record(msgspec.structs.replace(PLAIN, **changed).to_json())


def test_every_severity_is_one_that_incidents_know():
    assert {getattr(Severities(), one.name) for one in fields(Severities)} <= {
        "critical",
        "major",
        "minor",
        "info",
    }
