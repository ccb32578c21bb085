"""What backups.d/*.toml may say: which backups this host makes, when, what each is judged by, and how to look at it.

    [[backup]]
    name = "files-nightly"
    tool = "restic"
    schedule = { cron = "15 2 * * *", tz = "Europe/Berlin" }
    rpo = "26h"
    [backup.restic]
    repository = "/mnt/nas/restic"

A job becomes a `Definition`, which the collector judges it by, and its `targets`: one for each repository that is
looked at. Adapters judge their own tables, so reading imports those of the tools that are named: the daemon lets a
child do it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from watchbill.backups.definition import (
    COPIES_MAX,
    JOB_NAME_CHARACTERS_MAX,
    JOBS_MAX,
    OFFSITE,
    SIZE_WINDOW_MAX,
    SPAN_S_MAX,
    Copy,
    Definition,
    ProofAges,
    Requirement,
    Retention,
    Severities,
    SizeLimits,
    definition_fault,
)
from watchbill.backups.record import Level
from watchbill.backups.schedule import ZONE_DEFAULT, Schedule
from watchbill.config import ByteSize, Duration, NotWanted, Table, Wrong, load, option
from watchbill.config.convert import show_value
from watchbill.errors import ConfigError, Problem, UsageError
from watchbill_agent.backups import adapters
from watchbill_agent.backups.adapter import Adapter, Job, NoCommands, SourcePaths
from watchbill_agent.backups.present import DIRECTORY, FILE

PATHS_MAX: Final = 200
PATTERNS_MAX: Final = 50
PATTERN_CHARACTERS_MAX: Final = 500
TEXT_CHARACTERS_MAX: Final = 128
SPAN_MAX: Final = Duration(SPAN_S_MAX)
OBSERVE_EVERY_DEFAULT: Final = Duration(3600)
OBSERVE_EVERY_MIN: Final = Duration(60)
OBSERVE_EVERY_MAX: Final = Duration(7 * 86_400)
"""A repository that is looked at less often says nothing that helps."""
OBSERVE_WITHIN_DEFAULT: Final = Duration(600)
VERIFY_WITHIN_DEFAULT: Final = Duration(6 * 3600)
WITHIN_MIN: Final = Duration(1)
WITHIN_MAX: Final = Duration(2 * 86_400)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
_PERCENT = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)%", re.ASCII)
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]{1,250}\.(?:service|timer)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Share:
    """A fraction of 1, written as a percentage."""

    fraction: float = 0.0

    @classmethod
    def from_config(cls, value: object) -> "Share":
        """Read "30%". Raises NotWanted."""
        match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
        if match is None or float(match[1]) > 100:
            raise NotWanted('a share such as "30%"')
        return cls(round(float(match[1]) / 100, 8))

    def to_config(self) -> str:
        """As it is written."""
        return f"{self.fraction * 100:g}%"


def _name(value: str) -> str | None:
    if len(value) <= JOB_NAME_CHARACTERS_MAX and _NAME.fullmatch(value):
        return None
    return f"1 to {JOB_NAME_CHARACTERS_MAX} letters, digits, dots, hyphens and underscores"


def _unit(value: str) -> str | None:
    return (
        None if not value or _UNIT.fullmatch(value) else 'a unit such as "backup.service" or "backup.timer"'
    )


def _patterns(values: Sequence[str]) -> Iterator[Wrong]:
    for number, value in enumerate(values):
        try:
            re.compile(value)
        except (re.error, RecursionError, OverflowError) as exc:
            yield Wrong((number,), show_value(value), f"a regular expression: {exc}")
        if len(value) > PATTERN_CHARACTERS_MAX:
            yield Wrong((number,), f"{len(value)} characters", f"at most {PATTERN_CHARACTERS_MAX}")


# ---------------------------------------------------------------- what the file says


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTable:
    """What is backed up. Adapters compare it with what a backup holds, as far as their tool tells."""

    paths: list[str] = option([], length_max=PATHS_MAX, help="Paths that the backup is of.")
    must_exist: bool = option(False, help="Whether a path that is not there makes the backup a partial one.")
    min_files: int = option(0, at_least=0, help="How many files a backup holds at least.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleTable:
    """When it is due: one of cron, calendar and every; without any of them only the age of what there is counts."""

    cron: str = option("", help="Five fields, as cron has them.", example='"15 2 * * *"')
    calendar: str = option("", help="A systemd calendar event.", example='"Mon..Fri 02:15"')
    every: Duration | None = option(
        None, help="So long after the last run.", at_least=Duration(60), at_most=SPAN_MAX
    )
    tz: str = option(ZONE_DEFAULT, help="The time zone of cron and calendar.", example='"Europe/Berlin"')

    def check(self) -> Iterator[Wrong]:
        """Judge each by itself, so that the line in question is named."""
        given = [key for key in ("cron", "calendar", "every") if getattr(self, key)]
        if len(given) > 1:
            yield Wrong(given[1], "one more way to say when", f"nothing beside {given[0]}")
            return
        zone = Schedule(cron="0 0 * * *", zone=self.tz).fault()
        if zone:
            yield Wrong("tz", show_value(self.tz), 'a time zone such as "Europe/Berlin"')
        for key, schedule in (
            ("cron", Schedule(cron=self.cron)),
            ("calendar", Schedule(calendar=self.calendar)),
        ):
            fault = schedule.fault()
            if fault:
                yield Wrong(key, show_value(getattr(self, key)), fault)

    def schedule(self) -> Schedule:
        """As the collector has it."""
        every_s = 0.0 if self.every is None else float(self.every)
        return Schedule(cron=self.cron, calendar=self.calendar, every_s=every_s, zone=self.tz)


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeTable:
    """How large a backup is at least, and by how much it may shrink against the median of the last good ones."""

    min: ByteSize = option(ByteSize(0), help="The least size that can be right.", example='"10GiB"')
    drop: Share = option(Share(), help="How much smaller than usual is suspect.", example='"30%"')
    window: int = option(7, at_least=1, at_most=SIZE_WINDOW_MAX, help="Runs that make the median.")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionTable:
    """How long a snapshot is kept. One that vanishes before that is a matter of security."""

    keep: Duration | None = option(
        None, help="A snapshot younger than this does not vanish.", at_most=SPAN_MAX
    )
    min_copies: int = option(0, at_least=0, help="How many snapshots there are at least.")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyTable:
    """How old each proof may be: that the repository hangs together, that its data reads back, that it was restored."""

    structure: Duration | None = option(
        None, help="The greatest age of a check of structure.", at_most=SPAN_MAX
    )
    data: Duration | None = option(
        None, help="Within this time all data is read back, a part at a time.", at_most=SPAN_MAX
    )
    restore: Duration | None = option(
        None, help="The greatest age of a restore that was proved.", at_most=SPAN_MAX
    )
    run: bool = option(
        True,
        help="Whether this agent verifies what its adapter can, in time for these ages; false where something else "
        "does and reports it.",
    )
    within: Duration = option(
        VERIFY_WITHIN_DEFAULT,
        help="How long one verification may take.",
        at_least=WITHIN_MIN,
        at_most=WITHIN_MAX,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyTable:
    """One place where the data is kept. A table of the tool's options beside these keys says how this copy is read:
    what it says wins over the job's own."""

    name: str = option(check=_name, help="Unique among the copies of the job.")
    location: str = option(
        "", length_max=TEXT_CHARACTERS_MAX, help=f'Where it is; "{OFFSITE}" survives the loss of this place.'
    )
    media: str = option("", length_max=TEXT_CHARACTERS_MAX, help="What it is on, such as disk, object, tape.")
    immutable: bool = option(False, help="Whether nobody can change or remove it before its time.")
    tools: dict[str, Table] = option({}, rest=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequireTable:
    """How many copies there have to be: 3-2-1-1-0 is copies 3, media 2, offsite 1, immutable 1."""

    copies: int = option(0, at_least=0, at_most=COPIES_MAX, help="In all.")
    media: int = option(0, at_least=0, at_most=COPIES_MAX, help="On different media.")
    offsite: int = option(0, at_least=0, at_most=COPIES_MAX, help="Elsewhere.")
    immutable: int = option(0, at_least=0, at_most=COPIES_MAX, help="That nobody can change.")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTable:
    """One backup. Beside these keys it has a table named as its tool: the adapter's options."""

    name: str = option(check=_name, help="Unique on this host.")
    tool: str = option(help="What makes it: the adapter that reads it.", example='"restic"')
    service: str = option("", length_max=TEXT_CHARACTERS_MAX, help="The service whose data it is.")
    source: SourceTable = option(SourceTable())
    schedule: ScheduleTable = option(ScheduleTable())
    start_grace: Duration = option(Duration(1800), help="How late it may begin.", at_most=SPAN_MAX)
    max_duration: Duration | None = option(None, help="How long it may take.", at_most=SPAN_MAX)
    min_duration: Duration | None = option(
        None, help="Who is done sooner has not backed up everything.", at_most=SPAN_MAX
    )
    rpo: Duration | None = option(None, help="How old the newest good point may be.", at_most=SPAN_MAX)
    size: SizeTable = option(SizeTable())
    retention: RetentionTable = option(RetentionTable())
    verify: VerifyTable = option(VerifyTable())
    copies: list[CopyTable] = option([], length_max=COPIES_MAX)
    require: RequireTable = option(RequireTable())
    severity: Severities = option(Severities())
    observe_every: Duration | None = option(
        None,
        help="How often its repository is looked at: 1h, where its tool has one.",
        example='"1h"',
        at_least=OBSERVE_EVERY_MIN,
        at_most=OBSERVE_EVERY_MAX,
    )
    observe_within: Duration = option(
        OBSERVE_WITHIN_DEFAULT,
        help="How long a look may take.",
        at_least=WITHIN_MIN,
        at_most=WITHIN_MAX,
    )
    unit: str = option(
        "",
        check=_unit,
        help="The systemd service or timer that runs it: its runs are read from systemd, without a wrapper.",
        example='"backup.timer"',
    )
    ok_if: list[str] = option(
        [],
        length_max=PATTERNS_MAX,
        check=_patterns,
        help="Regular expressions: a wrapped run that prints one is ok.",
    )
    partial_if: list[str] = option(
        [], length_max=PATTERNS_MAX, check=_patterns, help="The same: it is partial, whatever its exit code."
    )
    fail_if: list[str] = option(
        [], length_max=PATTERNS_MAX, check=_patterns, help="The same: it failed, whatever its exit code."
    )
    manifest: bool = option(
        False,
        help="Whether a wrapped run notes what a sample of the source looks like, to prove a restore by.",
    )
    tools: dict[str, Table] = option({}, rest=True)

    def check(self) -> Iterator[Wrong | Problem]:
        """What concerns several keys."""
        names = [copy.name for copy in self.copies]
        for number, name in enumerate(names):
            if name in names[:number]:
                yield Wrong(("copies", number, "name"), show_value(name), "a name of its own")
        if self.min_duration and self.max_duration and self.min_duration > self.max_duration:
            yield Wrong("min_duration", show_value(self.min_duration.to_config()), "at most max_duration")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    backup: list[Table] = option([])


@dataclass(frozen=True, slots=True, kw_only=True)
class PrintedFile:
    """Backups of this host: backups.d/*.toml."""

    backup: list[JobTable] = option([])


# ---------------------------------------------------------------- what becomes of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One repository of a job, and how it is read. `options` are as the file has them, judged already."""

    copy: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    levels: frozenset[Level] = frozenset()
    """What this agent verifies of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobConfig:
    """One job: what the collector gets of it, and what stays here."""

    definition: Definition
    source: SourcePaths = field(default_factory=SourcePaths)
    targets: tuple[Target, ...] = ()
    observe_within_s: float = float(OBSERVE_WITHIN_DEFAULT)
    verify_within_s: float = float(VERIFY_WITHIN_DEFAULT)
    unit: str = ""
    ok_if: tuple[str, ...] = ()
    partial_if: tuple[str, ...] = ()
    fail_if: tuple[str, ...] = ()
    manifest: bool = False

    @property
    def name(self) -> str:
        """Of the job."""
        return self.definition.name


def read_jobs(etc: Path) -> tuple[JobConfig, ...]:
    """Every job under `etc`, in the order of files and lines. Raises ConfigError with every problem."""
    tables = load(_Files, etc / FILE, etc / DIRECTORY, main_required=False).backup
    problems: list[Problem] = []
    seen: dict[str, Table] = {}
    jobs: list[JobConfig] = []
    for table in tables:
        try:
            said = table.read(JobTable)
        except ConfigError as error:
            problems += error.problems
            continue
        if said.name in seen:
            first = seen[said.name].problem("name", "", "")
            wanted = f"a name of its own ({first.file}:{first.line} has it)"
            problems.append(table.problem("name", f"{show_value(said.name)} again", wanted))
        seen.setdefault(said.name, table)
        made = _job(table, said)
        if isinstance(made, JobConfig):
            jobs.append(made)
        else:
            problems += made
    if len(tables) > JOBS_MAX:
        problems.append(tables[JOBS_MAX].problem("", f"{len(tables)} backups", f"at most {JOBS_MAX}"))
    if problems:
        raise ConfigError(problems)
    return tuple(jobs)


def _job(table: Table, said: JobTable) -> JobConfig | list[Problem]:
    kind = adapters.find(said.tool)
    if kind is None:
        known = ", ".join(adapters.names())
        return [table.problem("tool", show_value(said.tool), f"one of: {known}")]
    problems = list(_strange_tables(said))
    definition = _definition(said, kind)
    fault = definition_fault(definition)
    if fault:
        problems.append(table.problem("", fault, "what can be"))
    targets: list[Target] = []
    job = Job(name=said.name, definition=definition, source=_source(said))
    for copy, options in _targets(table, said):
        made = _made(kind, options, replace(job, copy=copy))
        if isinstance(made, Adapter):
            levels = _levels(said) & made.proves()
            targets.append(Target(copy=copy, options=options.values, levels=levels))
        else:
            problems += made
    if problems:
        return list(dict.fromkeys(problems))
    return JobConfig(
        definition=definition,
        source=job.source,
        targets=tuple(targets) if kind.observes else (),
        observe_within_s=float(said.observe_within),
        verify_within_s=float(said.verify.within),
        unit=said.unit,
        ok_if=tuple(said.ok_if),
        partial_if=tuple(said.partial_if),
        fail_if=tuple(said.fail_if),
        manifest=said.manifest,
    )


def _source(said: JobTable) -> SourcePaths:
    source = said.source
    return SourcePaths(paths=tuple(source.paths), must_exist=source.must_exist, min_files=source.min_files)


def _levels(said: JobTable) -> frozenset[Level]:
    """Of which a proof is asked for, and from this agent."""
    ages = {
        Level.STRUCTURE: said.verify.structure,
        Level.DATA: said.verify.data,
        Level.RESTORE: said.verify.restore,
    }
    return frozenset(level for level, age in ages.items() if age and said.verify.run)


def _definition(said: JobTable, kind: type[Adapter]) -> Definition:
    every = OBSERVE_EVERY_DEFAULT if said.observe_every is None else said.observe_every
    return Definition(
        name=said.name,
        tool=said.tool,
        service=said.service,
        schedule=said.schedule.schedule(),
        start_grace_s=float(said.start_grace),
        max_duration_s=_seconds(said.max_duration),
        min_duration_s=_seconds(said.min_duration),
        rpo_s=_seconds(said.rpo),
        size=SizeLimits(min_bytes=int(said.size.min), drop=said.size.drop.fraction, window=said.size.window),
        retention=Retention(keep_s=_seconds(said.retention.keep), min_copies=said.retention.min_copies),
        verify=ProofAges(
            structure_s=_seconds(said.verify.structure),
            data_s=_seconds(said.verify.data),
            restore_s=_seconds(said.verify.restore),
        ),
        copies=tuple(
            Copy(name=copy.name, location=copy.location, media=copy.media, immutable=copy.immutable)
            for copy in said.copies
        ),
        require=Requirement(
            copies=said.require.copies,
            media=said.require.media,
            offsite=said.require.offsite,
            immutable=said.require.immutable,
        ),
        severity=said.severity,
        observed=kind.observes,
        observe_every_s=float(every) if kind.observes else 0.0,
    )


def _seconds(span: Duration | None) -> float:
    return 0.0 if span is None else float(span)


# ---------------------------------------------------------------- the tables of tools


def _strange_tables(said: JobTable) -> Iterator[Problem]:
    for tables in (said.tools, *(copy.tools for copy in said.copies)):
        for name, table in tables.items():
            if name != said.tool:
                yield table.problem("", "a table", f"a known key, or the table of its tool: {said.tool}")


def _targets(table: Table, said: JobTable) -> Iterator[tuple[str, Table]]:
    """Which repositories there are. Copies with a table of their own are read by it, over the job's; the job's alone
    reads the first copy that has none, or what no copy is named for."""
    own = said.tools.get(said.tool)
    base = table.inside(said.tool) if own is None else own
    without = [copy.name for copy in said.copies if said.tool not in copy.tools]
    if not said.copies:
        yield "", base
    elif without and (own is not None or len(without) == len(said.copies)):
        yield without[0], base
    for copy in said.copies:
        if said.tool in copy.tools:
            yield copy.name, copy.tools[said.tool].over(base)


def _made(kind: type[Adapter], table: Table, job: Job) -> Adapter | Sequence[Problem]:
    """The adapter, or what is wrong with its options."""
    from watchbill_agent.names import WrongOption

    try:
        # Making an adapter opens nothing; it judges what types cannot.
        return kind(table.read(kind.options_type), job, NoCommands())
    except ConfigError as exc:
        return exc.problems
    except WrongOption as exc:
        return [table.problem(exc.field, exc.got, exc.wanted)]
    except UsageError as exc:
        return [table.problem("", show_value(str(exc)), "options that the adapter can use")]
