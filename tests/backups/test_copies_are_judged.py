"""The facet of copies: how many there are, where, and what cannot be seen."""

import pytest

from watchbill.backups.definition import Copy, Requirement
from watchbill.backups.record import Outcome
from watchbill_collector.backups import FacetName, Word

from .histories import DUE, D, H, History, job

NAS = Copy(name="nas", location="rack-a", media="disk")
CLOUD = Copy(name="cloud", location="offsite", media="object", immutable=True)
TAPE = Copy(name="tape", location="offsite", media="tape", immutable=True)
ALL = Requirement(copies=2, media=2, offsite=1, immutable=1)


def made(*copies: Copy, require: Requirement = ALL) -> History:
    return History(job(copies=copies, require=require, observed=True, observe_every_s=3600.0))


def told(history: History, now_ms: int, **how: int) -> tuple[str, str]:
    facet = history.state(now_ms, **how).facets[FacetName.COPIES]
    return facet.level.value, facet.reason


def test_the_requirement_is_met_while_each_copy_is_young():
    history = made(NAS, CLOUD)
    history.saw(DUE + H, DUE, copy="nas")
    history.saw(DUE + H, DUE, copy="cloud")
    assert told(history, DUE + 2 * H) == ("ok", "ok")


def test_one_stale_copy_is_a_warning_while_the_others_are_enough():
    history = made(NAS, CLOUD, TAPE)
    for hour in range(1, 60, 2):
        history.saw(DUE + hour * H, DUE + hour // 24 * D, copy="nas")
        history.saw(DUE + hour * H, DUE + hour // 24 * D, copy="cloud")
        history.saw(DUE + hour * H, DUE, copy="tape")
    assert told(history, DUE + 20 * H) == ("ok", "ok")
    assert told(history, DUE + 40 * H) == ("warn", "copy-stale")


@pytest.mark.parametrize(
    ("have", "lacks"),
    [((NAS,), "copies"), ((NAS, Copy(name="nas2", media="disk")), "media"), ((TAPE, CLOUD), "")],
)
def test_what_is_missing_to_the_requirement_is_named(have, lacks):
    history = made(*have)
    for copy in have:
        history.saw(DUE + H, DUE, copy=copy.name)
    state = history.state(DUE + 2 * H)
    facet = state.facets[FacetName.COPIES]
    assert (facet.level.value == "bad") == bool(lacks)
    assert lacks in facet.text
    if lacks:
        assert (state.word, state.severity) == (Word.PARTIAL, "major")


def test_a_copy_that_cannot_be_seen_is_neither_counted_nor_missed():
    history = made(NAS, CLOUD)
    history.saw(DUE + H, DUE, copy="nas")
    assert told(history, DUE + 2 * H) == ("unknown", "copy-unreadable")
    history.unread(DUE + H, "wrong-password", copy="cloud")
    assert told(history, DUE + 2 * H) == ("unknown", "copy-unreadable")
    assert "wrong-password" in history.state(DUE + 2 * H).facets[FacetName.COPIES].text


def test_a_requirement_that_cannot_be_met_whatever_is_unseen_is_bad():
    history = made(NAS, CLOUD, require=Requirement(copies=2, immutable=2))
    history.saw(DUE + H, DUE, copy="nas")
    assert told(history, DUE + 2 * H) == ("bad", "copies-missing")


def test_a_copy_that_became_unreadable_is_good_while_its_point_is_young_and_unknown_after():
    history = made(NAS, CLOUD)
    for hour in range(1, 40):
        history.saw(DUE + hour * H, DUE + hour // 24 * D, copy="nas")
        if hour == 1:
            history.saw(DUE + H, DUE, copy="cloud")
        else:
            history.unread(DUE + hour * H, copy="cloud")
    assert told(history, DUE + 20 * H) == ("ok", "ok")
    assert told(history, DUE + 35 * H) == ("unknown", "copy-unreadable")


def test_a_copy_that_holds_nothing_to_restore_is_missing():
    history = made(NAS, CLOUD)
    history.saw(DUE + H, DUE, copy="nas")
    history.saw(DUE + H, DUE, copy="cloud", outcome=Outcome.FAILED, point_ms=0)
    assert told(history, DUE + 2 * H) == ("bad", "copies-missing")


def test_a_run_that_names_its_copy_speaks_for_it():
    history = made(NAS, require=Requirement(copies=1))
    history.ran(DUE, copy="nas")
    assert told(history, DUE + H) == ("ok", "ok")


def test_one_copy_needs_no_name_in_its_runs():
    history = made(NAS, require=Requirement(copies=1))
    history.ran(DUE)
    assert told(history, DUE + H) == ("ok", "ok")


def test_something_that_is_not_whole_is_a_warning():
    history = made(NAS, require=Requirement(copies=1))
    history.saw(DUE + H, DUE, copy="nas", outcome=Outcome.PARTIAL, reason="waiting-for-wals")
    assert told(history, DUE + 2 * H) == ("warn", "not-whole")
    unnamed = History(job(observed=True))
    unnamed.saw(DUE + H, DUE, outcome=Outcome.PARTIAL)
    assert told(unnamed, DUE + 2 * H) == ("warn", "not-whole")


def test_a_silent_hosts_copies_are_unknown_when_they_would_be_stale():
    history = made(NAS, CLOUD)
    history.saw(DUE + H, DUE, copy="nas")
    history.saw(DUE + H, DUE, copy="cloud")
    assert told(history, DUE + 40 * H, heard_ms=DUE + 2 * H) == ("unknown", "copy-unreadable")


def test_the_point_of_the_whole_is_that_of_the_newest_copy():
    history = made(NAS, CLOUD)
    history.saw(DUE + H, DUE, copy="nas")
    history.saw(DUE + H, DUE - D, copy="cloud")
    assert history.state(DUE + 2 * H).point_ms == DUE
