"""What becomes of an outcome."""

from watchbill_agent.checks.check import SAMPLES_MAX, About, Outcome, Probe, Samples, Verdict
from watchbill_agent.checks.config import Spec
from watchbill_agent.checks.publishing import published


class Thing(Probe):
    """A check that is never looked through."""

    kind = "thing"
    options_type = dict

    async def look(self, within_s):
        raise AssertionError


def spec(**changes):
    said = {
        "name": "shop",
        "kind": "thing",
        "interval_s": 10.0,
        "timeout_s": 5.0,
        "retries": 0,
        "retry_every_s": 1.0,
        "app": "web",
        "essential": False,
        "behind": ("db", "db1/postgres", "db2/"),
        "labels": (("team", "a"),),
        "check": Thing({}, About("shop", 10.0, 5.0)),
        "values": {},
    }
    return Spec(**(said | changes))


def rows(samples):
    return {(one.name, one.labels): value for one, value in zip(samples.series, samples.values, strict=True)}


COMMON = (("app", "web"), ("check", "shop"), ("team", "a"))


def test_every_check_has_its_verdict_its_time_and_its_dependencies():
    samples, dropped = published(spec(), Outcome(Verdict.OK), 0.25)
    assert dropped == 0
    assert rows(samples) == {
        ("probe_success", COMMON): 1.0,
        ("probe_duration_seconds", COMMON): 0.25,
        ("watchbill_check_status", COMMON): 0.0,
        ("watchbill_check_info", tuple(sorted((*COMMON, ("essential", "false"), ("kind", "thing"))))): 1.0,
        ("watchbill_check_behind", tuple(sorted((*COMMON, ("on_check", "db"))))): 1.0,
        (
            "watchbill_check_behind",
            tuple(sorted((*COMMON, ("on_check", "postgres"), ("on_instance", "db1")))),
        ): 1.0,
        ("watchbill_check_behind", tuple(sorted((*COMMON, ("on_instance", "db2"))))): 1.0,
    }


def test_a_verdict_that_is_unknown_says_nothing_of_success():
    found = rows(published(spec(), Outcome(Verdict.UNKNOWN, "not-installed"), 0.0)[0])
    assert ("probe_success", COMMON) not in found
    assert found["watchbill_check_status", COMMON] == 3.0
    assert rows(published(spec(), Outcome(Verdict.WARNING), 0.0)[0])["probe_success", COMMON] == 1.0
    assert rows(published(spec(), Outcome(Verdict.CRITICAL), 0.0)[0])["probe_success", COMMON] == 0.0


def test_a_kind_cannot_say_what_the_runtime_says_nor_take_its_labels():
    samples = Samples()
    samples.gauge("probe_success", "Mine.", 7.0)
    samples.gauge("mine", "Mine.", 8.0, check="other", app="other", code="200")
    found = rows(published(spec(), Outcome(Verdict.OK, samples=samples), 0.0)[0])
    assert found["probe_success", COMMON] == 1.0
    assert found["mine", tuple(sorted((*COMMON, ("code", "200"))))] == 8.0


def test_samples_beyond_the_bound_are_left_out_and_counted():
    samples = Samples()
    for number in range(SAMPLES_MAX + 3):
        samples.gauge("mine", "Mine.", 1.0, number=str(number))
    made, dropped = published(spec(behind=()), Outcome(Verdict.OK, samples=samples), 0.0)
    assert dropped == 3
    assert sum(one.name == "mine" for one in made.series) == SAMPLES_MAX
