"""Everything that the running agent counts, gathered from its parts at every tick for its self-metrics."""

from typing import TYPE_CHECKING

from watchbill_agent.selfstats import Facts

if TYPE_CHECKING:
    from watchbill_agent.app import Agent


def counted(agent: "Agent", log_lines_suppressed: int) -> Facts:
    """As it is now. Without a link, and before a daemon runs it, what they count is nothing."""
    sampling, queue, identity = agent.sampling, agent.spool.facts(), agent.identity
    link = None if agent.sender is None else agent.sender.facts
    house, relay = agent.house, agent.relay
    backups, reports, requests = agent.backups.counts, agent.backups.incoming, agent.backups.requests
    return Facts(
        series=sampling.batcher.series,
        series_refused=sampling.batcher.refused,
        dictionaries=sampling.batcher.dictionaries,
        readings_broken=sampling.batcher.broken_readings,
        tick_duration_s=sampling.tick_duration_s,
        suspended_s=sampling.suspended_s,
        queue_records=queue.records,
        queue_bytes=queue.bytes,
        queue_bytes_max=queue.bytes_max,
        dropped_records=queue.dropped_records,
        dropped_samples=queue.dropped_samples,
        acked_records=queue.acked,
        spool_durable=queue.durable,
        spool_segments=queue.segments,
        spool_written_bytes=queue.written_bytes,
        spool_syncs=queue.syncs,
        spool_failures=queue.sync_failures + queue.write_failures,
        spool_damaged=queue.damaged + queue.quarantined,
        spool_refused=queue.refused_records,
        spool_reserve_short=queue.reserve_short,
        connected=link is not None and link.connected,
        attempts=0 if link is None else link.attempts,
        sessions=0 if link is None else link.sessions,
        messages_sent=0 if link is None else link.messages_sent,
        bytes_sent=0 if link is None else link.bytes_sent,
        records_sent=0 if link is None else link.records_sent,
        records_sent_again=0 if link is None else link.records_sent_again,
        beats_sent=0 if link is None else link.beats_sent,
        in_flight_bytes=0 if link is None else link.in_flight_bytes,
        collector_refused={} if link is None else link.refused,
        clock_offset_s=agent.clock_offset_s() or 0.0,
        certificate_expires_s=0.0 if identity is None else identity.not_after_ms / 1000,
        certificate_life_s=0.0
        if identity is None
        else (identity.not_after_ms - identity.not_before_ms) / 1000,
        backup_jobs=backups.jobs,
        backup_looks=backups.looks,
        backup_looks_failed=backups.looks_failed,
        backup_verifications=backups.verifications,
        backup_looks_stuck=backups.stuck,
        backup_records=backups.records,
        backup_records_refused=backups.refused,
        backup_requests=requests.taken + requests.dropped,
        backup_requests_refused=requests.refused,
        backup_requests_dropped=requests.dropped,
        orders=0 if relay is None else relay.counts.orders,
        orders_dropped=0 if relay is None else relay.counts.dropped,
        orders_without_runner=0 if relay is None else relay.counts.no_runner,
        orders_events=0 if relay is None else relay.counts.events,
        backup_reports=0 if reports is None else reports.kept,
        backup_reports_refused=0 if reports is None else reports.refused,
        backup_reports_waiting=0 if reports is None else reports.waiting,
        pings=0 if (door := agent.served.pings) is None else door.taken,
        pings_refused=0 if door is None else door.turned_away,
        happenings=agent.sampling.happenings.told,
        happenings_dropped=agent.sampling.happenings.dropped,
        reloads=0 if house is None else house.reloads,
        reloads_refused=0 if house is None else house.reloads_refused,
        last_reload_ok=house is None or not house.reload_error,
        log_lines_suppressed=log_lines_suppressed,
    )
