"""Crashes and stops of either daemon: history stays, what is missing is explained, everything comes back."""

import itertools
import signal

import pytest

pytestmark = pytest.mark.timeout(120)

QUIET = "[rules]\nstock = false\n"


@pytest.fixture(scope="module")
def collector(shared_house):
    return shared_house.collector(QUIET)


@pytest.fixture(scope="module", autouse=True)
def silent(shared_house, collector, until):
    """A host that falls silent when the tests of this file begin: the last one looks what became of it."""
    agent = shared_house.agent(collector, "silent")
    until(lambda: ups(collector, "silent"), "up")
    agent.running.signal(signal.SIGSTOP)
    return agent


def samples(collector, name):
    return collector.raw(f'node_load1{{instance="{name}"}}', 600)


def ups(collector, name):
    return [value for _, value in collector.raw(f'up{{instance="{name}"}}', 600)]


def widest_s(found):
    """The longest time between two neighbouring samples."""
    return max(later[0] - earlier[0] for earlier, later in itertools.pairwise(found))


def test_kill_9_of_the_collector_costs_nothing_but_its_absence(house, until):
    collector = house.collector(QUIET)
    agent = house.agent(collector, "web1")
    before = until(lambda: len(found := samples(collector, "web1")) >= 4 and found, "some history")
    collector.kill()
    until(lambda: agent.status()["link"]["state"] != "connected", "the agent notices")
    collector.launch()
    after = until(
        lambda: len(found := samples(collector, "web1")) > len(before) + 3 and found,
        "the agent is back by itself, and what it sampled meanwhile is there",
    )
    assert set(before) <= set(after)
    # No tick is missing: what was sampled while the collector was away came from the agent's queue.
    assert widest_s(after) < 2.0, after
    assert collector.losses("web1") == []
    house.until_up(collector, "web1")
    assert set(ups(collector, "web1")) == {1.0}


def test_a_collector_that_stops_in_order_is_back_with_everything(house, until):
    collector = house.collector(QUIET)
    agent = house.agent(collector, "web1")
    before = until(lambda: len(found := samples(collector, "web1")) >= 3 and found, "some history")
    assert collector.stop() == 0
    assert agent.status()["link"]["state"] != "connected"
    collector.launch()
    after = until(
        lambda: len(found := samples(collector, "web1")) > len(before) + 3 and found, "history goes on"
    )
    assert set(before) <= set(after)
    assert widest_s(after) < 2.0, after
    assert collector.losses("web1") == []


def test_an_alert_survives_kill_9_of_the_collector(house, until):
    collector = house.collector(QUIET, launch=False)
    (collector.etc / "rules.d" / "always.yml").write_text(
        "groups:\n- name: g\n  interval: 1s\n  rules:\n"
        '  - {alert: Always, expr: "node_load1 >= 0", for: 2s}\n'
    )
    collector.launch()
    house.agent(collector, "web1")
    # An alert is saved before the next evaluation begins: one that was given twice is safe.
    firing_twice = 'count_over_time(ALERTS{alertname="Always",alertstate="firing"}[1m]) >= 2'
    until(lambda: collector.query(firing_twice), "it fires")
    (firing,) = collector.alerts("Always")
    collector.kill()
    collector.launch()
    (again,) = until(lambda: collector.alerts("Always"), "the alert is there")
    assert (again["state"], again["active_at"]) == ("firing", firing["active_at"])
    until(lambda: collector.query('node_load1{instance="web1"}'), "fresh values")
    (again,) = collector.alerts("Always")
    assert (again["state"], again["active_at"]) == ("firing", firing["active_at"])


def test_kill_9_of_an_agent_leaves_gap_rows_that_span_the_hole(shared_house, collector, until):
    agent = shared_house.agent(collector, "killed")
    before = until(lambda: len(found := samples(collector, "killed")) >= 3 and found, "some history")
    agent.kill()
    agent.start()
    found = until(
        lambda: (found := samples(collector, "killed")) and found[-1][0] > before[-1][0] + 2 and found,
        "new samples",
    )
    rows = {row["reason"]: row for row in collector.gaps("killed")}
    assert set(rows) == {"restart"}, "what waited is on disk: nothing is missing but the time in between"
    assert {row["host"] for row in rows.values()} == {"killed"}
    # It spans from the last record that was written to the new start.
    assert all(row["first"] and row["last"] and row["first"] < row["last"] for row in rows.values()), rows
    assert widest_s(found) < 10
    table = collector.cli("gaps", "killed")
    assert table.code == 0
    assert table.out.count("killed") == len(rows)


def test_a_kill_after_an_orderly_run_does_not_claim_that_run_was_silence(shared_house, collector, until):
    agent = shared_house.agent(collector, "twice")
    until(lambda: len(samples(collector, "twice")) >= 2, "a first run")
    assert agent.stop() == 0
    agent.start()
    second_run = until(
        lambda: (rows := collector.gaps("twice")) and len(samples(collector, "twice")) >= 4 and rows,
        "a second run",
    )
    (stopped,) = second_run
    assert (stopped["reason"], stopped["count"]) == ("restart", 0)
    agent.kill()
    agent.start()
    rows = until(lambda: len(rows := collector.gaps("twice")) >= 2 and rows, "a third run")
    restarts = sorted((row["first"], row["last"]) for row in rows if row["reason"] == "restart")
    assert len(restarts) == 2, rows
    assert restarts[0][1] < restarts[1][0], "the second run lies between the two"


def test_a_stopped_agent_is_neither_up_nor_down_and_its_series_end_at_once(shared_house, collector, until):
    agent = shared_house.agent(collector, "stopped")
    until(lambda: collector.query('node_load1{instance="stopped"}'), "values")
    assert agent.stop() == 0
    until(lambda: collector.query('up{instance="stopped"}') == [], "up is gone")
    assert collector.query('{instance="stopped"}') == []
    assert len(samples(collector, "stopped")) >= 1, "history stays"
    assert collector.host("stopped")["state"] not in ("up", "down")
    agent.start()
    shared_house.until_up(collector, "stopped")
    until(lambda: collector.query('node_load1{instance="stopped"}'), "values again")
    (row,) = until(lambda: collector.gaps("stopped"), "the time between is explained")
    assert (row["reason"], row["count"], row["samples"]) == ("restart", 0, 0), "nothing was lost"


def test_a_second_daemon_in_the_same_home_is_refused(shared_house, collector):
    agent = shared_house.agent(collector, "alone")
    for daemon in (agent, collector):
        second = daemon.command("run")
        assert second.code != 0, daemon
        assert second.err
        assert "Traceback" not in second.err
    assert collector.ask("GET", "/readyz").status == 200
    assert collector.host("alone")["state"] == "up"


def test_a_silent_agent_is_down_after_its_grace_and_up_when_it_speaks(collector, silent, until):
    until(lambda: collector.host("silent")["state"] == "down", "down", 60)
    until(lambda: ups(collector, "silent")[-1] == 0.0, "up is 0")
    silent.running.signal(signal.SIGCONT)
    until(lambda: collector.host("silent")["state"] == "up", "up again")
    until(lambda: ups(collector, "silent")[-1] == 1.0, "up is 1")
    found = ups(collector, "silent")
    assert [value for value, _ in itertools.groupby(found)] == [1.0, 0.0, 1.0]
