"""Segments of PostgreSQL's log: numbered over files of any size, looked for, and followed."""

import pytest

from watchbill_agent.backups.wal import (
    MIB,
    Numbering,
    Segment,
    Shelf,
    Stored,
    follow,
    in_words,
    numbering_of,
    span,
)

USUAL = Numbering()


def shelf(*names: str, numbering: Numbering = USUAL) -> Shelf:
    """Of these segments, each stored a second after the one before; one that is named twice is there twice."""
    found: dict[str, dict[str, Stored]] = {}
    for at, name in enumerate(names):
        there = found.setdefault(name[:16], {})
        there[name] = Stored(at * 1000, there[name].times + 1 if name in there else 1)
    return Shelf(numbering, lambda: frozenset(found), lambda directory: found[directory])


def name(number: int, timeline: int = 1) -> str:
    return USUAL.name(Segment(timeline, number))


@pytest.mark.parametrize("mib", [1, 2, 16, 64, 1024])
def test_names_and_numbers_are_the_same_thing_at_every_size(mib: int) -> None:
    numbering = Numbering(mib * MIB)
    per_file = 4096 // mib
    for number in (0, 1, per_file - 1, per_file, 7 * per_file + 3 % per_file):
        assert numbering.read(numbering.name(Segment(3, number))) == Segment(3, number)
    assert numbering.name(Segment(1, per_file)) == "000000010000000100000000"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00000001000000000000000",
        "00000001000000000000000g",
        "000000010000000000000100",
        "000000000000000000000001",
    ],
)
def test_what_is_no_segment_here_is_none(text: str) -> None:
    assert USUAL.read(text) is None


@pytest.mark.parametrize(
    ("segment", "position", "mib"),
    [
        ("000000010000000000000002", "0/2000028", 16),
        ("00000001000000000000000C", "0/C00028", 1),
        ("000000010000000A0000003F", "A/FC000028", 64),
        ("000000010000000000000000", "0/28", 16),  # Any would fit.
        ("000000010000000000000002", "nonsense", 16),
    ],
)
def test_the_size_of_segments_is_read_from_where_a_backup_began(
    segment: str, position: str, mib: int
) -> None:
    assert numbering_of([(segment, position)]) == Numbering(mib * MIB)


def test_one_beginning_decides_what_another_leaves_open() -> None:
    assert numbering_of([("000000010000000000000000", "0/28"), ("000000010000000000000003", "0/300028")]) == (
        Numbering(MIB)
    )


def test_a_span_goes_over_the_end_of_a_log_file() -> None:
    found = span(Segment(1, 254), Segment(1, 257))
    assert found is not None
    assert [USUAL.name(segment)[8:] for segment in found] == [
        "00000000000000FE",
        "00000000000000FF",
        "0000000100000000",
        "0000000100000001",
    ]


def test_what_is_no_span_of_a_backup_is_none() -> None:
    assert span(Segment(1, 5), Segment(1, 4)) is None
    assert span(Segment(2, 5), Segment(1, 6)) is None
    assert span(Segment(1, 0), Segment(1, 10**9)) is None
    assert span(Segment(1, 5), Segment(2, 9)) == [Segment(1, 5), Segment(2, 9)]


def test_the_log_is_followed_to_its_end() -> None:
    log = shelf(*(name(number) for number in range(250, 260)))
    assert follow(Segment(1, 252), log.timelines(), log.whole) == Segment(1, 259)
    assert log.newest(1) == Segment(1, 259)
    assert log.find(Segment(1, 259)).stored_ms == 9000


def test_a_gap_ends_it_and_what_is_behind_is_still_seen() -> None:
    log = shelf(name(3), name(4), name(6), name(7))
    assert follow(Segment(1, 3), log.timelines(), log.whole) == Segment(1, 4)
    assert log.newest(1) == Segment(1, 7)


def test_a_segment_that_is_there_twice_ends_it_too() -> None:
    log = shelf(name(3), name(4), name(4), name(5))
    assert follow(Segment(1, 3), log.timelines(), log.whole) == Segment(1, 3)


def test_recovery_goes_over_to_the_newest_timeline() -> None:
    """A server was promoted at 5; what the old one still archived is not where recovery goes."""
    old, new = [name(number) for number in range(3, 9)], [name(number, 2) for number in range(5, 7)]
    log = shelf(*old, *new)
    assert follow(Segment(1, 3), log.timelines(), log.whole) == Segment(2, 6)
    assert log.newest(2) == Segment(2, 6)


def test_a_directory_is_listed_once_and_only_when_it_is_needed() -> None:
    asked: list[str] = []

    def listing(directory: str) -> dict[str, Stored]:
        asked.append(directory)
        return {name(3): Stored(1)}

    log = Shelf(USUAL, lambda: frozenset({"0000000100000000"}), listing)
    for _ in range(3):
        assert log.whole(Segment(1, 3))
        assert not log.whole(Segment(1, 300)), "its directory is not there, and is not asked for"
    assert asked == ["0000000100000000"]


def test_missing_segments_are_told_in_few_words() -> None:
    assert in_words([Segment(1, 3)], USUAL) == "000000010000000000000003"
    words = in_words([Segment(1, 3), Segment(1, 4), Segment(1, 5)], USUAL)
    assert words == "000000010000000000000003 to 000000010000000000000005 (3 of them)"
