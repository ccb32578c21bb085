"""The facet of proofs: their ages, parts that make a whole, failures, and the newest point that was verified."""

from dataclasses import replace

from watchbill.backups.definition import Copy, ProofAges
from watchbill.backups.record import Kind, Level, Outcome
from watchbill_collector.backups import FacetName, Word

from .histories import DUE, T0, D, H, History, job

WEEK, MONTH = 7 * D, 30 * D


def history(**ages: float) -> History:
    made = History(job(rpo_s=0.0, schedule=type(job().schedule)(), verify=ProofAges(**ages), observed=True))
    made.ran(DUE)
    return made


def told(made: History, now_ms: int, **how: int) -> tuple[str, str, str]:
    """Word, level and reason."""
    state = made.state(now_ms, **how)
    facet = state.facets[FacetName.VERIFY]
    return state.word.value, facet.level.value, facet.reason


def test_a_proof_that_was_never_made_is_unknown_until_it_is_wanted():
    made = history(structure_s=7 * 86400.0)
    assert told(made, T0 + WEEK - 1) == ("OK", "unknown", "never-proven")
    assert told(made, T0 + WEEK) == ("UNVERIFIED", "warn", "never-proven")


def test_a_proof_has_an_age():
    made = history(structure_s=7 * 86400.0)
    made.proved(DUE + H, Level.STRUCTURE)
    assert told(made, DUE + H + WEEK - 1) == ("OK", "ok", "ok")
    assert told(made, DUE + H + WEEK) == ("UNVERIFIED", "warn", "overdue")
    assert told(made, DUE + H + WEEK + H, heard_ms=DUE + WEEK) == ("OK", "unknown", "silent")


def test_a_failed_proof_is_bad_until_a_whole_one_takes_it_back():
    made = history(data_s=30 * 86400.0)
    made.proved(DUE + H, Level.DATA)
    made.proved(DUE + D, Level.DATA, ok=False, errors=("pack 1234 is damaged",))
    assert told(made, DUE + D + H) == ("UNVERIFIED", "bad", "proof-failed")
    assert "pack 1234" in made.state(DUE + D + H).why
    made.proved(DUE + 2 * D, Level.STRUCTURE)
    assert told(made, DUE + 2 * D + H)[2] == "proof-failed"
    made.proved(DUE + 3 * D, Level.DATA)
    assert told(made, DUE + 3 * D + H) == ("OK", "ok", "ok")


def test_parts_make_a_whole_that_is_as_old_as_its_oldest_part():
    made = history(data_s=10 * 86400.0)
    for day in range(5):
        made.proved(DUE + day * D, Level.DATA, fraction=1 / 5)
        if day == 3:
            assert told(made, DUE + 3 * D + H) == ("OK", "unknown", "never-proven")
            assert told(made, T0 + 10 * D)[1] == "warn"
    assert told(made, DUE + 10 * D - 1) == ("OK", "ok", "ok")
    assert told(made, DUE + 10 * D) == ("UNVERIFIED", "warn", "overdue")
    made.proved(DUE + 5 * D, Level.DATA, fraction=1 / 5)
    assert told(made, DUE + 10 * D) == ("OK", "ok", "ok")


def test_a_part_that_failed_is_not_taken_back_by_another_part():
    made = history(data_s=10 * 86400.0)
    made.proved(DUE, Level.DATA, fraction=1 / 3, ok=False)
    for day in (1, 2):
        made.proved(DUE + day * D, Level.DATA, fraction=1 / 3)
        assert told(made, DUE + day * D + H)[2] == "proof-failed"
    made.proved(DUE + 3 * D, Level.DATA, fraction=1 / 3)
    assert told(made, DUE + 3 * D + H)[2] == "ok"


def test_data_that_was_read_whole_hangs_together_too():
    made = history(structure_s=7 * 86400.0, data_s=30 * 86400.0)
    made.proved(DUE + H, Level.DATA)
    assert told(made, DUE + D) == ("OK", "ok", "ok")
    made.proved(DUE + 2 * H, Level.STRUCTURE)
    assert told(made, DUE + WEEK + 3 * H)[2] == "overdue"


def test_a_restore_proves_a_restore_also_without_a_level():
    made = history(restore_s=90 * 86400.0)
    made.tell(Kind.RESTORE, DUE + D, point_ms=DUE)
    assert told(made, DUE + 2 * D) == ("OK", "ok", "ok")
    assert made.state(DUE + 2 * D).verified_point_ms == DUE
    made.tell(Kind.RESTORE, DUE + 3 * D, outcome=Outcome.FAILED)
    assert told(made, DUE + 4 * D)[2] == "proof-failed"
    assert made.state(DUE + 4 * D).verified_point_ms == 0


def test_a_verification_that_could_not_be_made_proves_nothing_and_says_why():
    made = history(structure_s=7 * 86400.0)
    made.tell(Kind.VERIFY, DUE, outcome=Outcome.UNKNOWN, reason="repository-locked")
    assert told(made, DUE + H) == ("OK", "unknown", "never-proven")
    assert "repository-locked" in made.state(DUE + H).facets[FacetName.VERIFY].text


def test_a_failure_of_any_copy_counts_and_proofs_of_any_copy_do():
    made = history(structure_s=7 * 86400.0)
    made.definition = replace(made.definition, copies=(Copy(name="nas"), Copy(name="cloud")))
    made.proved(DUE + H, Level.STRUCTURE, copy="nas")
    assert told(made, DUE + D)[2] == "ok"
    made.proved(DUE + 2 * H, Level.DATA, copy="cloud", ok=False)
    assert told(made, DUE + D)[2] == "proof-failed"
    made.definition = replace(made.definition, copies=(Copy(name="nas"),))
    assert told(made, DUE + D)[2] == "ok", "the job does not have the other any more"


def test_one_overdue_proof_is_a_warning_and_two_are_bad_and_so_is_one_that_is_late_again():
    made = history(structure_s=7 * 86400.0, data_s=30 * 86400.0, restore_s=90 * 86400.0)
    made.proved(DUE + H, Level.DATA)
    made.tell(Kind.RESTORE, DUE + H)
    assert told(made, DUE + H + WEEK)[1:] == ("warn", "overdue")
    assert told(made, DUE + H + 2 * WEEK - 1)[1:] == ("warn", "overdue")
    assert told(made, DUE + H + 2 * WEEK) == ("UNVERIFIED", "bad", "overdue")
    made.proved(DUE + H + 3 * WEEK, Level.STRUCTURE)
    assert told(made, DUE + 2 * H + 3 * WEEK)[1] == "ok"
    assert told(made, DUE + 2 * H + MONTH) == ("UNVERIFIED", "bad", "overdue")
    state = made.state(DUE + 2 * H + MONTH)
    assert state.severity == "major"
    assert "data" in state.why
    assert "structure" in state.why


def test_verifying_yesterdays_archive_does_not_hide_todays_missing_one():
    made = History(job(verify=ProofAges(data_s=30 * 86400.0)))
    made.ran(DUE)
    made.proved(DUE + 27 * H, Level.DATA)
    state = made.state(DUE + 28 * H)
    assert state.facets[FacetName.VERIFY].reason == "ok"
    assert state.word is Word.STALE


def test_the_verified_point_is_what_was_there_when_all_was_read_and_still_is():
    made = history(data_s=30 * 86400.0)
    made.saw(DUE + H, DUE)
    made.proved(DUE + 2 * H, Level.DATA)
    made.saw(DUE + D + H, DUE, DUE + D)
    state = made.state(DUE + D + 2 * H)
    assert (state.point_ms, state.verified_point_ms) == (DUE + D, DUE)
    made.saw(DUE + 2 * D + H, DUE + D, DUE + 2 * D)
    assert made.state(DUE + 2 * D + 2 * H).verified_point_ms == 0


def test_structure_alone_verifies_no_point():
    made = history(structure_s=7 * 86400.0)
    made.saw(DUE + H, DUE)
    made.proved(DUE + 2 * H, Level.STRUCTURE)
    assert made.state(DUE + 3 * H).verified_point_ms == 0


def test_a_restore_that_names_no_copy_proves_the_point_that_was_there():
    made = history(restore_s=90 * 86400.0)
    made.told.clear()
    made.definition = replace(made.definition, copies=(Copy(name="nas"),))
    made.saw(DUE + H, DUE, copy="nas")
    made.tell(Kind.RESTORE, DUE + 2 * H)
    made.saw(DUE + D + H, DUE, DUE + D, copy="nas")
    assert made.state(DUE + D + 2 * H).verified_point_ms == DUE
