"""The jobs of this host as a person reads them: what the files say, when each is due, what the running agent saw last;
and one look at a job's repositories, now, to see whether its configuration works."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from watchbill.backups.record import Outcome, Record, read_record
from watchbill.errors import Unreachable, UsageError
from watchbill.logs import escape
from watchbill_agent.backups.config import JobConfig
from watchbill_agent.question import SOCKET_NAME, ask

QUESTION: Final = "backups"
"""What the agent's socket is asked."""


def listed(jobs: Sequence[JobConfig], run: Path, now_ms: int) -> dict[str, Any]:
    """All of it. Times are UTC ms, 0 for none; `agent` says whether one runs here and answered."""
    try:
        document = ask(run / SOCKET_NAME, QUESTION)
        trouble = ""
    except Unreachable as exc:
        document, trouble = {}, str(exc)
    seen: dict[str, list[object]] = {}
    repositories = document.get("repositories")
    for one in repositories if isinstance(repositories, list) else ():
        seen.setdefault(str(one["job"]), []).append(one)
    return {
        "agent": not trouble,
        "trouble": trouble,
        "jobs": [_job(job, seen.get(job.name, []), now_ms) for job in jobs],
    }


def _job(job: JobConfig, seen: Sequence[object], now_ms: int) -> dict[str, Any]:
    definition = job.definition
    return {
        "name": job.name,
        "tool": definition.tool,
        "service": definition.service,
        "digest": definition.digest(),
        "schedule": schedule_words(job),
        "due_ms": definition.schedule.next(now_ms),
        "rpo_s": definition.rpo_s,
        "observe_every_s": definition.observe_every_s,
        "verifies": sorted({level for target in job.targets for level in target.levels}),
        "repositories": list(seen) or [{"copy": target.copy} for target in job.targets],
    }


def schedule_words(job: JobConfig) -> str:
    """When it is due, as its file says it."""
    schedule = job.definition.schedule
    if schedule.every_s:
        return f"every {span(schedule.every_s)}"
    said = schedule.cron or schedule.calendar
    return f"{said} {schedule.zone}" if said else ""


def lines(document: Mapping[str, Any], now_ms: int) -> Iterator[str]:
    """For a person."""
    if document["trouble"]:
        yield f"what the agent saw is not known: {document['trouble']}"
    if not document["jobs"]:
        yield "this host has no backups: write backups.d/NAME.toml, see check-config --print-sample"
    for job in document["jobs"]:
        parts = [job["tool"], job["schedule"]]
        if job["due_ms"]:
            parts.append(f"due {when(job['due_ms'])}")
        if job["rpo_s"]:
            parts.append(f"rpo {span(job['rpo_s'])}")
        yield escape(f"{job['name']}: " + ", ".join(part for part in parts if part))
        for one in job["repositories"]:
            yield escape(f"  {_repository(one, now_ms)}")


def _repository(one: Mapping[str, Any], now_ms: int) -> str:
    name = one["copy"] or "repository"
    if not one.get("outcome"):
        return f"{name}: not looked at yet"
    parts = [f"{name}: {one['outcome']}" + (f" ({one['reason']})" if one["reason"] else "")]
    if one["point_ms"]:
        parts.append(f"newest point {when(one['point_ms'])}")
    if one["snapshots"] is not None:
        parts.append(counted(one["snapshots"]))
    parts.append(f"looked at {span(max(0, now_ms - one['observed_ms']) / 1000)} ago")
    said = ", ".join(parts)
    return f"{said}: {one['errors'][0]}" if one["errors"] else said


def when(at_ms: int) -> str:
    """A moment, in UTC; what no calendar has, as it is."""
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{at_ms} ms"


def counted(snapshots: int) -> str:
    """How many."""
    return f"{snapshots} snapshot" + ("" if snapshots == 1 else "s")


def span(seconds: float) -> str:
    """A duration, in its two largest units."""
    from watchbill.config import Duration

    whole = round(seconds)
    for unit_s, below_s in ((86_400, 3600), (3600, 60), (60, 1)):
        if whole >= unit_s:
            return Duration(whole - whole % below_s).to_config()
    return Duration(whole).to_config()


# ---------------------------------------------------------------- one look


def look_now(jobs: Sequence[JobConfig], name: str, copy: str | None) -> tuple[Record, ...]:
    """Look at the repositories of a job as this user, now. Nothing of it is sent. Raises UsageError for what there is
    none of."""
    from watchbill_agent.backups.asked import ask_here

    job = next((each for each in jobs if each.name == name), None)
    if job is None:
        known = ", ".join(each.name for each in jobs) or "none"
        raise UsageError(f"got the job {name!r}, wanted one of: {known}")
    targets = [target for target in job.targets if copy is None or target.copy == copy]
    if not targets:
        known = (
            ", ".join(target.copy or '""' for target in job.targets) or "none: it is known by its runs alone"
        )
        raise UsageError(f"{name}: got no repository to look at, wanted one of: {known}")
    found: list[Record] = []
    # Not in the agent's own state: root's files there would be in the agent's way.
    with tempfile.TemporaryDirectory(prefix="watchbill-look-") as scratch:
        for target in targets:
            question = {"do": "observe", "job": job, "target": target, "scratch": scratch}
            answer = ask_here(question, job.observe_within_s)
            if answer.fault:
                raise UsageError(f"{name}: the look failed: {answer.fault}")
            found.append(read_record(answer.lines[0]))
    return tuple(found)


def look_lines(records: Sequence[Record]) -> Iterator[str]:
    """For a person."""
    for record in records:
        reason = f" ({record.reason})" if record.reason else ""
        version = f" by {record.tool} {record.tool_version}".rstrip()
        yield escape(f"{record.copy or record.job}: {record.outcome}{reason}{version}")
        if record.point_ms:
            yield f"  newest point {when(record.point_ms)}"
        if record.snapshots is not None and record.snapshots.count:
            oldest, newest = when(record.snapshots.oldest_ms), when(record.snapshots.newest_ms)
            yield f"  {counted(record.snapshots.count)}, {oldest} to {newest}"
        for name, size in (("source", record.bytes_source), ("stored", record.bytes_stored)):
            if size is not None:
                yield f"  {name} {size} bytes"
        if record.repo_locked:
            yield "  it is locked"
        for error in record.errors:
            yield escape(f"  {error}")


def all_read(records: Sequence[Record]) -> bool:
    """Whether each repository could be read and is whole."""
    return all(record.outcome in (Outcome.OK, Outcome.RUNNING) for record in records)
