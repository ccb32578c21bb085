"""What the running agent says of itself, as documents with stable keys, and how a person reads them."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from watchbill import __version__
from watchbill.clock import Clock
from watchbill.protocol.frames import Stream
from watchbill_agent.selfstats import Memory, cpu_seconds
from watchbill_agent.spool import Spool
from watchbill_agent.way import mqtt_url

if TYPE_CHECKING:
    from watchbill_agent.app import Agent

GAPS_SHOWN_MAX = 1_000


def status_document(agent: "Agent") -> dict[str, object]:
    """How the agent is. Times are UTC ms, durations seconds."""
    now_s = agent.clock.monotonic_s()
    identity, config, house = agent.identity, agent.config, agent.house
    memory = Memory()
    try:
        rss_bytes = memory.rss_bytes()
    finally:
        memory.close()
    return {
        "version": __version__,
        "started_ms": round(agent.started_s * 1000),
        "instance": _instance(agent),
        "agent_id": None if identity is None else identity.agent_id,
        "site": None if identity is None else identity.site,
        "certificate_expires_ms": None if identity is None else identity.not_after_ms,
        "renewal_error": agent.renewal_error,
        "labels": dict(config.labels),
        "bound_labels": {} if identity is None else dict(identity.labels),
        "link": _link(agent, now_s),
        "queue": _queue(agent.spool),
        "sampling": _sampling(agent),
        "configuration": {
            "directory": str(agent.homes.etc),
            "reloads": 0 if house is None else house.reloads,
            "reloads_refused": 0 if house is None else house.reloads_refused,
            "reload_error": "" if house is None else house.reload_error,
        },
        "loops": {} if house is None else {k: round(v, 3) for k, v in house.progress.silent_s().items()},
        "wedged": [] if house is None else house.progress.wedged(),
        "process": {"cpu_seconds": round(cpu_seconds(), 3), "rss_bytes": rss_bytes},
    }


def _instance(agent: "Agent") -> str:
    sender = agent.sender
    if sender is not None and sender.facts.instance:
        return sender.facts.instance
    return agent.config.instance or ("" if agent.identity is None else agent.identity.instance)


def _link(agent: "Agent", now_s: float) -> dict[str, object]:
    sender = agent.sender
    if sender is None or agent.identity is None:
        return {"state": "not enrolled"}
    facts, budget = sender.facts, agent.budget
    offset_s = agent.clock_offset_s()
    url = mqtt_url(agent.config, agent.identity)
    return {
        "state": "connected" if facts.connected else "away",
        "collector": str(url or agent.config.collector or agent.identity.stream_endpoint),
        "transport": "grpc" if url is None else "mqtt",
        "proxy": bool(agent.config.proxy),
        "for_s": round(now_s - facts.since_s, 3),
        "reason": facts.reason,
        "detail": facts.detail,
        "attempts": facts.attempts,
        "sessions": facts.sessions,
        "messages_sent": facts.messages_sent,
        "bytes_sent": facts.bytes_sent,
        "records_sent": facts.records_sent,
        "records_sent_again": facts.records_sent_again,
        "beats_sent": facts.beats_sent,
        "in_flight_bytes": facts.in_flight_bytes,
        "refused_by_collector": dict(facts.refused),
        "clock_offset_s": None if offset_s is None else round(offset_s, 3),
        "budget": None
        if budget is None
        else {
            "left_bytes": round(budget.level(now_s)),
            "spent_bytes": budget.spent_bytes,
            "waits": budget.waits,
        },
    }


def _queue(spool: Spool) -> dict[str, object]:
    facts = spool.facts()
    return {
        "records": facts.records,
        "bytes": facts.bytes,
        "bytes_max": facts.bytes_max,
        "appended_records": facts.appended_records,
        "acked": facts.acked,
        "dropped_records": facts.dropped_records,
        "dropped_samples": facts.dropped_samples,
        "kind": facts.kind,
        "durable": facts.durable,
        "segments": facts.segments,
        "syncs": facts.syncs,
        "sync_failures": facts.sync_failures,
        "write_failures": facts.write_failures,
        "written_bytes": facts.written_bytes,
        "refused_critical_records": facts.refused_records,
        "damaged": facts.damaged,
        "quarantined_files": facts.quarantined,
        "reserve_missing_files": facts.reserve_short,
        "error": facts.error,
    }


def _sampling(agent: "Agent") -> dict[str, object]:
    sampling = agent.sampling
    return {
        "interval_s": sampling.prepared.base_ms / 1000,
        "ticks_per_message": sampling.prepared.ticks_per_message,
        "series": sampling.batcher.series,
        "series_refused": sampling.batcher.refused,
        "ticks": sampling.punctuality.ticks,
        "ticks_missed": sampling.punctuality.missed,
        "lateness_s": sampling.punctuality.lateness_s,
        "tick_duration_s": round(sampling.tick_duration_s, 6),
        "suspended_s": sampling.suspended_s,
        "samplers": [
            {
                "name": state.name,
                "state": "absent" if state.absent else "failing" if state.reason else "ok",
                "reason": state.reason,
                "notice": state.notice,
                "failures": state.failures,
                "failing_since_ms": state.failing_since_ms or None,
                "duration_s": round(state.duration_s, 6),
            }
            for state in sampling.states()
        ],
    }


def gaps_document(spool: Spool, clock: Clock) -> dict[str, object]:
    """Every gap that waits for the collector's acknowledgement, and what was lost in all."""
    ahead_ms = clock.wall_ms() - clock.boottime_ms()
    gaps: list[dict[str, object]] = []
    for stream in Stream:
        seq = spool.state(stream).acked
        while (held := spool.held_after(stream, seq)) is not None and len(gaps) < GAPS_SHOWN_MAX:
            seq = held.last
            if held.gap is not None:
                gaps.append(
                    {
                        "stream": stream.name.lower(),
                        "from_seq": held.first,
                        "to_seq": held.last,
                        "records": 0 if held.notice else held.last - held.first + 1,
                        "samples": held.samples,
                        "first_ms": held.first_boottime_ms + ahead_ms if held.first_boottime_ms else None,
                        "last_ms": held.last_boottime_ms + ahead_ms if held.last_boottime_ms else None,
                        "reason": held.gap.name.lower(),
                    }
                )
    facts = spool.facts()
    return {
        "gaps": gaps,
        "dropped_records": facts.dropped_records,
        "dropped_samples": facts.dropped_samples,
    }


# ------------------------------------------------------------ for people


def status_lines(document: Mapping[str, Any]) -> Iterator[str]:
    """The status as a short table, what is wrong first."""
    link, queue, sampling = document["link"], document["queue"], document["sampling"]
    yield f"host        {printable(document['instance']) or '(no name)'}, agent {document['version']}"
    yield f"link        {_link_words(link)}"
    if link.get("clock_offset_s") is not None:
        yield f"clock       {link['clock_offset_s']:+.3f} s against the collector"
    yield (
        f"queue       {queue['records']} records, {_size(queue['bytes'])} of {_size(queue['bytes_max'])}"
        f"; dropped {queue['dropped_records']} records, {queue['dropped_samples']} samples"
    )
    if queue["error"]:
        yield f"spool       the disk takes nothing, records stay in memory: {printable(queue['error'])}"
    elif queue["kind"] == "memory":
        yield "spool       in memory: what waits is lost when the agent ends, and counted"
    if queue["damaged"] or queue["quarantined_files"]:
        bad = f"{queue['damaged']} damaged stretches, {queue['quarantined_files']} files set aside"
        yield f"spool       {bad}; watchbill-agent spool verify says more"
    late_ms, took_ms = sampling["lateness_s"] * 1000, sampling["tick_duration_s"] * 1000
    yield (
        f"sampling    {sampling['series']} series every {sampling['interval_s']:g} s"
        f"; {sampling['ticks']} ticks, {sampling['ticks_missed']} missed"
        f"; last {late_ms:.0f} ms late, took {took_ms:.1f} ms"
    )
    if document["renewal_error"]:
        yield f"certificate not renewed: {printable(document['renewal_error'])}"
    for reason, count in sampling["series_refused"].items():
        yield f"left out    {count} series: {printable(reason)}"
    for sampler in sampling["samplers"]:
        if sampler["state"] == "failing":
            yield f"failing     {sampler['name']}: {printable(sampler['reason'])}"
        if sampler["notice"]:
            yield f"notice      {sampler['name']}: {printable(sampler['notice'])}"
    if document["configuration"]["reload_error"]:
        yield "reload      refused, the old configuration is in use:"
        for line in str(document["configuration"]["reload_error"]).splitlines():
            yield f"            {printable(line)}"
    for loop in document["wedged"]:
        yield f"wedged      the {loop} loop makes no progress"
    process = document["process"]
    yield f"process     {_size(process['rss_bytes'])}, {process['cpu_seconds']:.2f} s CPU"


def _link_words(link: Mapping[str, Any]) -> str:
    if link["state"] == "not enrolled":
        return "not enrolled: watchbill-agent enroll --token-file FILE"
    if link["state"] == "connected":
        return f"connected to {printable(link['collector'])} for {link['for_s']:.0f} s"
    tried = f"{link['attempts']} attempts; watchbill-agent doctor says more"
    why = f"{printable(link['reason'])}: {printable(link['detail'])}"
    return f"away from {printable(link['collector'])} for {link['for_s']:.0f} s ({why}; {tried})"


def gaps_lines(document: Mapping[str, Any]) -> Iterator[str]:
    """The gaps as a table."""
    for gap in document["gaps"]:
        span = "" if gap["first_ms"] is None else f" {_when(gap['first_ms'])} to {_when(gap['last_ms'])}"
        numbers = f"{gap['stream']} {gap['from_seq']}-{gap['to_seq']}"
        yield f"{gap['reason']:<18} {numbers:<20} {gap['records']} records, {gap['samples']} samples{span}"
    if not document["gaps"]:
        yield "no gaps wait for the collector"
    records, samples = document["dropped_records"], document["dropped_samples"]
    yield f"dropped since the start: {records} records, {samples} samples"


def _when(wall_ms: int) -> str:
    import time

    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wall_ms / 1000))


def _size(count: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def printable(text: object) -> str:
    """What others wrote, harmless on a terminal."""
    from watchbill.logs import escape

    return escape(str(text))
