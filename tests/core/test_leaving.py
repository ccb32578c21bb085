"""The words of a goodbye, and what they promise."""

import pytest

from watchbill.leaving import BACK_WITHIN_MS, BACK_WITHIN_MS_MAX, WORDS, Farewell, Leaving, read_word, taken

NOW_MS = 1_700_000_000_000


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ("reboot", "reboot"),
        ("shutdown", "stop"),
        ("", "stop"),
        (" Upgrade ", "upgrade"),
        ("power cut", "power cut"),
        ("x" * 500, "x" * 32),
        ("a\x1b[2Jb\n", "a[2jb"),
    ],
)
def test_a_word_is_read_in_todays_terms_and_stays_short_and_printable(said: str, word: str) -> None:
    assert read_word(said) == word


@pytest.mark.parametrize("word", WORDS)
def test_every_word_promises_what_it_usually_takes_or_nothing(word: str) -> None:
    within_ms = BACK_WITHIN_MS.get(word, 0)
    assert taken(Farewell(word), NOW_MS) == Leaving(word, NOW_MS, NOW_MS + within_ms if within_ms else 0)


def test_what_was_said_wins_and_is_bounded() -> None:
    assert taken(Farewell("reboot", 1000), NOW_MS).back_by_ms == NOW_MS + 1000
    assert taken(Farewell("suspend", 2**64 - 1), NOW_MS).back_by_ms == NOW_MS + BACK_WITHIN_MS_MAX
