"""A host that goes says why; what breaks without a word is unexpected; who does not come back is missed."""

from typing import Any


def absence(collector: Any, name: str = "web01") -> dict[str, Any]:
    return collector.host(name)["absence"] or {}


def listed(collector: Any, name: str = "web01") -> str:
    """The host's line in `watchbill hosts`."""
    lines = collector.cli("hosts").out.splitlines()
    return next(line for line in lines if line.startswith(name))


def test_every_way_to_go_is_shown_as_what_it_is(house: Any, until: Any) -> None:
    collector = house.collector("[rules]\nstock = false\n")
    agent = house.agent(collector, "web01")

    # A plain stop: `up` ends, nobody misses it.
    assert agent.stop() == 0
    until(lambda: collector.host("web01")["state"] == "stopped", "the stop is shown")
    assert absence(collector)["kind"] == "announced"
    assert absence(collector)["reason"] == "stop"
    until(lambda: collector.query("up") == [], "its series have ended")

    # A reboot that takes longer than it said: it is down from then on.
    agent.start()
    house.until_up(collector, "web01")
    assert absence(collector) == {}
    done = agent.command("leaving", "--reason", "reboot", "--back-within", "3s")
    assert (done.code, done.out) == (0, "reboot, back within 3s: the agent will say so when it is stopped\n")
    assert agent.stop() == 0
    found = until(lambda: absence(collector), "the reboot is shown")
    assert (found["kind"], found["reason"]) == ("announced", "reboot")
    assert "stopped: reboot, back by " in listed(collector)
    until(lambda: collector.value('up{instance="web01"}') == 0, "it is missed")
    assert absence(collector)["kind"] == "overdue"
    assert "down: reboot, overdue since " in listed(collector)

    # The collector remembers it when it is killed.
    collector.kill()
    collector.launch()
    assert absence(collector)["reason"] == "reboot"
    assert absence(collector)["back_by"] == found["back_by"]

    # How complete the hour is, as far as the host was there for it: read from history, the reboot is a hole in it.
    agent.start()
    house.until_up(collector, "web01")
    complete = 'watchbill_host_completeness_ratio{instance="web01",job="node"}'
    assert 0 < until(lambda: collector.value(complete), "the completeness is said") < 1

    # Killed: nobody announced that.
    agent.kill()
    found = until(lambda: absence(collector), "the broken stream is shown")
    assert (found["kind"], found["reason"], found["back_by"]) == ("unexpected", "", None)
    assert "link lost since" in listed(collector)


def test_before_a_sleep_the_agent_says_so_and_goes_on_running(house: Any, until: Any) -> None:
    collector = house.collector("[rules]\nstock = false\n")
    agent = house.agent(collector, "web01")
    done = agent.command("leaving", "--reason", "suspend")
    assert (done.code, done.out) == (0, "suspend: the collector was told\n")
    assert collector.host("web01")["state"] == "stopped"
    assert "stopped: suspend" in listed(collector)
    assert agent.running.running
    until(lambda: agent.status()["link"]["reason"] == "suspend", "the agent knows why it is away")


def test_a_decommissioned_ephemeral_host_retires_itself_and_its_history_stays(house: Any, until: Any) -> None:
    collector = house.collector("[rules]\nstock = false\n")
    agent = house.home("job-7")
    token = collector.issue("job-7", ephemeral=True)["token"]
    assert agent.command("enroll", "--token-file", "-", given=token).code == 0
    agent.start()
    house.until_up(collector, "job-7")
    assert agent.command("leaving", "--reason", "decommission").code == 0
    assert agent.stop() == 0
    until(lambda: collector.host("job-7")["state"] == "retired", "it is retired")
    [row] = [row for row in collector.get("/audit")["rows"] if row["action"] == "host.retired"]
    assert (row["actor"], row["target"]) == ("host:job-7", "job-7")
    assert collector.query('node_load1{instance="job-7"}') == []
    kept = collector.query('count_over_time(node_load1{instance="job-7"}[5m])')
    assert [labels["instance"] for labels, count in kept if count >= 1] == ["job-7"]
    assert collector.cli("gaps", "job-7", "--json").code == 0
