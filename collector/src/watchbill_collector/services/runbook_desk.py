"""`api.runbook_port.RunbookService` over the shelf of runbooks and the runs that are open."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from watchbill.clock import Clock
from watchbill.errors import Refused
from watchbill_collector.api.ports import Caller, at
from watchbill_collector.api.runbook_port import (
    JOURNAL_ROWS_MAX,
    RUNS_LISTED_MAX,
    Finding,
    JournalRow,
    Plan,
    RunbookView,
    RunVerb,
    RunView,
    no_run,
    no_runbook,
)
from watchbill_collector.audit import Entry
from watchbill_collector.runbooks.books import Book
from watchbill_collector.runbooks.lint import Around, judge_text, lint
from watchbill_collector.runbooks.lint_apps import Apps, app_findings
from watchbill_collector.runbooks.model import Runbook
from watchbill_collector.runbooks.parameters import Judged, judge_parameters
from watchbill_collector.runbooks.planning import Planned, plan
from watchbill_collector.runbooks.run import fold as folding
from watchbill_collector.runbooks.run import restraint
from watchbill_collector.runbooks.run.rows import Created, Row, read_row
from watchbill_collector.runbooks.run.verbs import obey
from watchbill_collector.services.run_book import called_by, judge_length
from watchbill_collector.services.run_fleet import FleetView
from watchbill_collector.services.run_looks import Looks
from watchbill_collector.services.run_open import Live
from watchbill_collector.services.run_pause import Restraints
from watchbill_collector.services.run_plan import live_plan, made_plan
from watchbill_collector.services.run_rights import APPROVING_ROLES, Rights
from watchbill_collector.services.run_views import journal_row, listed, run_view
from watchbill_collector.services.run_votes import Votes
from watchbill_collector.services.runbook_shelf import Shelf
from watchbill_collector.services.runs import Runs
from watchbill_collector.store import Store, runbooks, runs
from watchbill_collector.store.runbooks import AcceptanceRow, PreflightRow
from watchbill_collector.store.runs import RunSummary

if TYPE_CHECKING:
    from watchbill_collector.runbooks.drilling import Standing

PROPOSAL_MS: Final = 24 * 3_600_000
"""How long a proposal waits for somebody to start it."""

Studied = tuple[tuple[int, int], tuple[str, ...], tuple[Finding, ...]]
"""Of a text: the fleet it was judged against, the hosts that it touches, what is wrong with it."""
_NEVER: Final[Studied] = ((-1, -1), (), ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A runbook as a bundle needs it. `run` and `requester` are those of the run that it goes on with, "" for none."""

    runbook: Runbook
    text: str
    parameters: Mapping[str, str]
    planned: Planned
    run: str = ""
    requester: str = ""


class RunbookDesk:
    """See the module. On the loop; what asks the store does so in a thread."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        shelf: Shelf,
        running: Runs,
        fleet: FleetView,
        restraints: Restraints,
        rights: Rights,
        around: Around,
    ) -> None:
        self._store = store
        self._clock = clock
        self._shelf = shelf
        self._runs = running
        self._fleet = fleet
        self._restraints = restraints
        self._rights = rights
        self._around = around
        self._looks = Looks(running, clock)
        self._votes = Votes(store, clock, running, fleet)
        self.standing: Callable[[str], Standing | None] = lambda _: None
        """How the drills of a runbook stand, when somebody watches them."""
        self.apps: Callable[[], Apps | None] = lambda: None
        """The applications that hosts have told of; None: nobody knows."""
        self._studied: dict[str, Studied] = {}

    # ------------------------------------------------------------ runbooks

    async def runbooks(self, caller: Caller) -> Sequence[RunbookView]:
        """All that he sees, by name."""
        past = await self._past()
        preflights = await self._preflights()
        books = dict(self._shelf.books)
        await self._study(*books.values())
        return [
            self._view(name, book, past, preflights)
            for name, book in books.items()
            if self._rights.sees(caller, self._hosts_of(book))
        ]

    async def runbook(self, name: str, caller: Caller) -> tuple[RunbookView, str]:
        """One, and its text."""
        book = await self._book(name, caller)
        view = self._view(name, book, await self._past(), await self._preflights())
        return view, book.content.decode("utf-8", "replace")

    async def lint(self, name: str, content: str, caller: Caller) -> Sequence[Finding]:
        """Judge a text against the hosts that are here. What is told of hosts is for who sees everything."""
        around = self._around_now(whole=self._rights.sees(caller, ()))
        file = name or "runbook.yaml"
        found = await asyncio.to_thread(judge_text, file, content.encode("utf-8"), around)
        return [_finding(one) for one in found[1]]

    async def plan(self, name: str, given: Mapping[str, str], drill: bool, caller: Caller) -> Plan:
        """What a run would do now; live looks, nothing changed."""
        runbook = await self._usable(name, caller)
        judged = self._judge(runbook, given, drill)
        world = self._fleet()
        first = await self._planned(runbook, judged, drill)
        self._rights.may_change(caller, _hosts(first), f"plan {name}")
        problems = self._problems(runbook, drill)
        planned, looked = await live_plan(
            self._looks, world, runbook, judged, drill, self._shelf.in_force, purpose_of_people=True
        )
        return made_plan(runbook, judged, drill, planned, looked, problems)

    async def exported(self, name: str, given: Mapping[str, str], run_id: str, caller: Caller) -> Exported:
        """What a bundle of a runbook says. Not of a text that nobody has accepted. Raises NoSuch, Refused."""
        runbook = await self._usable(name, caller)
        requester = ""
        if run_id:
            summary = await self._stored(run_id, caller)
            if given:
                raise Refused(f"the run {run_id} has its parameters: none is given beside it")
            if summary.digest != runbook.digest or summary.drill:
                raise Refused(f"the run {run_id} is of another text than {name} is now, or a drill")
            given, requester = dict(summary.parameters), summary.requester
        judged = self._judge(runbook, given, drill=False)
        planned = await self._planned(runbook, judged, drill=False)
        self._rights.may_change(caller, _hosts(planned), f"export {name}")
        if judged.problems:
            raise Refused("; ".join(f"{one}: {text}" for one, text in judged.problems.items()))
        called = called_by(runbook, self._shelf.in_force)
        for one, digest in {runbook.name: runbook.digest, **called}.items():
            if self._shelf.acceptance(digest) is None:
                raise Refused(f"nobody has accepted this text of {one}: watchbill runbooks accept {one}")
        return Exported(
            runbook=runbook,
            text=(await self._book(name, caller)).content.decode("utf-8", "replace"),
            parameters=judged.texts,
            planned=planned,
            run=run_id,
            requester=requester,
        )

    async def preflight(self, name: str) -> PreflightRow | None:
        """Look whether a runbook could be run now, with its defaults, and keep what came of it; None when there is
        none. For whoever does so on a timer. What an alert or a person gives, and nobody can know before, is no
        problem: all that does not depend on it is looked at."""
        runbook = self._shelf.in_force.get(name)
        if runbook is None:
            return None
        judged, asked = self._judge(runbook, {}, drill=False), runbook
        missing = {one.name for one in runbook.parameters if one.default is None}
        if missing:
            problems = {name: text for name, text in judged.problems.items() if name not in missing}
            judged, asked = replace(judged, problems=problems), replace(runbook, lock=None)
        planned, looked = await live_plan(
            self._looks, self._fleet(), asked, judged, False, self._shelf.in_force, purpose_of_people=False
        )
        await self._study(self._shelf.books[name])
        wrong = [one.message for one in self._findings_of(self._shelf.books[name]) if one.severity == "error"]
        why = [*(one for one in self._problems(runbook, drill=False) if "paused" not in one), *wrong]
        made = made_plan(asked, judged, False, planned, looked, why)
        row = PreflightRow(
            name=name,
            digest=runbook.digest,
            at_ms=self._clock.wall_ms(),
            ready=not made.problems,
            problems=tuple(made.problems),
        )
        await self._store.write(lambda connection: runbooks.add_preflight(connection, self._store.site, row))
        return row

    async def accept(self, name: str, digest: str, caller: Caller) -> RunbookView:
        """Say that this text may be run. Not by who wrote it."""
        book = await self._book(name, caller)
        self._rights.may_change(caller, self._hosts_of(book), f"accept {name}", APPROVING_ROLES)
        if book.runbook is None:
            raise Refused(f"{name} cannot be read, and so not be accepted: watchbill runbooks lint {name}")
        if digest != book.digest:
            raise Refused(f"{name} has another text by now: read it again, its digest is {book.digest}")
        author = await asyncio.to_thread(self._shelf.author, digest)
        if author and author == caller.name:
            raise Refused(f"{caller.name} wrote this text of {name}: somebody else has to accept it")
        row = AcceptanceRow(digest=digest, name=name, person=caller.name, at_ms=self._clock.wall_ms())
        detail = {"digest": digest, "file": book.file}
        await self._shelf.accept(
            row, Entry(actor=caller.name, action="runbook.accept", target=name, detail=detail)
        )
        return (await self.runbook(name, caller))[0]

    async def reset_breaker(self, name: str, reason: str, caller: Caller) -> RunbookView:
        """Let its trigger act again."""
        book = await self._book(name, caller)
        self._rights.may_change(caller, self._hosts_of(book), f"reset the breaker of {name}")
        if book.runbook is None or not self._breaker_open(book.runbook, await self._past()):
            raise Refused(f"the breaker of {name} is not open")
        await self._restraints.reset_breaker(name, caller.name, reason)
        return (await self.runbook(name, caller))[0]

    # ------------------------------------------------------------ runs

    async def start(
        self, name: str, given: Mapping[str, str], reason: str, drill: bool, confirm: str, caller: Caller
    ) -> RunView:
        """Begin a run."""
        runbook = await self._usable(name, caller)
        judged = self._judge(runbook, given, drill)
        planned = await self._planned(runbook, judged, drill)
        self._rights.may_change(caller, _hosts(planned), f"run {name}")
        problems = [*self._problems(runbook, drill), *planned.problems]
        if problems:
            raise Refused("; ".join(problems))
        wanted = "" if drill or not runbook.confirm else judged.texts[runbook.confirm]
        if confirm != wanted:
            raise Refused(f"this needs {wanted!r} to be typed, got {confirm!r}")
        past = await self._past()
        notes = restraint.limited(runbook.limits, name, planned.lock, past, self._clock.wall_ms())
        live = await self._create(runbook, judged, planned, reason, drill, caller.name, notes=notes)
        return self._run_view(live)

    async def propose(
        self, name: str, given: Mapping[str, str], reason: str, trigger: str, *, auto: bool
    ) -> tuple[str, str]:
        """A trigger asks for a run: its id, and why it was only proposed, "" when it begins by itself. Raises Refused
        when not even a proposal makes sense, NoSuch."""
        runbook = self._shelf.in_force.get(name)
        if runbook is None:
            raise no_runbook(name)
        judged = self._judge(runbook, given, drill=False)
        planned = await self._planned(runbook, judged, drill=False)
        past, now_ms = await self._past(), self._clock.wall_ms()
        why = [*self._problems(runbook, drill=False), *planned.problems]
        why += restraint.limited(runbook.limits, name, planned.lock, past, now_ms)
        if self._breaker_open(runbook, past):
            why.append(f"the breaker is open: watchbill runbooks show {name}")
        if not auto:
            why.append("the trigger proposes")
        elif runbook.limits == type(runbook.limits)():
            why.append("a trigger that acts by itself needs limits")
        live = await self._create(
            runbook, judged, planned, reason, False, "", notes=why, trigger=trigger, proposed=bool(why)
        )
        return live.run.run_id, "; ".join(why)

    async def _create(
        self,
        runbook: Runbook,
        judged: Judged,
        planned: Planned,
        reason: str,
        drill: bool,
        requester: str,
        *,
        notes: Sequence[str] = (),
        trigger: str = "",
        proposed: bool = False,
    ) -> Live:
        called = called_by(runbook, self._shelf.in_force)
        flow = self._runs.book.flow(runbook.digest, called, drill)
        assert flow is not None, "what is in force was read"
        judge_length(flow)
        created = Created(
            runbook=runbook.name,
            digest=runbook.digest,
            parameters=dict(judged.texts),
            requester=requester,
            reason=reason,
            trigger=trigger,
            drill=drill,
            proposed=proposed,
            expires_ms=self._clock.wall_ms() + PROPOSAL_MS if proposed else 0,
            lock=planned.lock,
            rto_ms=round(runbook.rto_s * 1000),
            hosts=sorted({row.agent for row in planned.rows if row.agent}),
            called=called,
            notes=list(notes),
        )
        detail = {"runbook": runbook.name, "digest": runbook.digest, "drill": drill, "reason": reason}
        detail["parameters"] = dict(judged.texts)
        action = "run.propose" if proposed else "run.start"
        entry = Entry(actor=requester or "system", action=action, target=runbook.name, detail=detail)
        return await self._runs.create([created], flow, entry)

    async def runs(
        self, caller: Caller, open_only: bool, drills_only: bool, runbook: str, limit: int
    ) -> Sequence[RunView]:
        """The newest first."""
        site = self._store.site
        found = await asyncio.to_thread(
            self._store.read,
            lambda connection: runs.summaries(
                connection, site, open_only=open_only, drills_only=drills_only, runbook=runbook
            ),
        )
        kept = [one for one in found if self._rights.sees(caller, self._names(one.hosts))]
        return [self._listed(one) for one in kept[: min(limit, RUNS_LISTED_MAX)]]

    async def run(self, run_id: str, caller: Caller) -> RunView:
        """One."""
        live = self._runs.get(run_id)
        if live is not None:
            self._seen(caller, self._summary_hosts(live), run_id)
            return self._run_view(live)
        summary = await self._stored(run_id, caller)
        return await asyncio.to_thread(self._ended_view, summary)

    async def journal(self, run_id: str, after: int, caller: Caller) -> Sequence[JournalRow]:
        """Its rows after row number `after`."""
        await self._stored(run_id, caller)
        rows = await asyncio.to_thread(
            self._store.read, lambda connection: runs.journal(connection, run_id, after, JOURNAL_ROWS_MAX)
        )
        return [journal_row(row) for row in rows]

    async def change(self, run_id: str, verb: RunVerb, step: str, reason: str, caller: Caller) -> RunView:
        """Retry, skip, mark done, undo, abort, start."""
        live = await self._changing(run_id, caller, f"{verb.value} {run_id}")
        if verb is RunVerb.START:
            self._may_start(live)
        entry = Entry(
            actor=caller.name,
            action=f"run.{verb.value}",
            target=run_id,
            detail={"step": step, "reason": reason},
        )

        def decide() -> list[Row]:
            return obey(live.run, live.flow, verb, step, caller.name, reason)

        await self._runs.add(live, decide, entry)
        await self._runs.turn()
        return await self._after(run_id, live)

    def _may_start(self, live: Live) -> None:
        created = live.run.created
        runbook = self._runs.book.by_digest(created.digest)
        problems = self._problems(runbook, created.drill) if runbook is not None else ["its text is gone"]
        if problems:
            raise Refused("; ".join(problems))

    async def vote(self, run_id: str, step: str, signed: bytes, caller: Caller) -> RunView:
        """Hand in a signed vote."""
        live = await self._changing(run_id, caller, f"vote on {run_id}", approving=True)
        await self._votes.signed(live, step, signed, caller)
        return await self._after(run_id, live)

    async def approve(self, run_id: str, step: str, yes: bool, comment: str, caller: Caller) -> RunView:
        """A vote of a gate that only the collector checks, by who is logged in."""
        live = await self._changing(run_id, caller, f"vote on {run_id}", approving=True)
        await self._votes.by_login(live, step, yes, comment, caller)
        return await self._after(run_id, live)

    # ------------------------------------------------------------ automation

    async def pause(self, reason: str, caller: Caller) -> None:
        """No trigger starts anything and no run begins a step with an effect, until `resume`."""
        await self._restraints.set_pause(caller.name, reason)
        self._runs.changed()

    async def resume(self, reason: str, caller: Caller) -> None:
        """The end of `pause`."""
        if self._restraints.pause is None:
            raise Refused("automation is not paused")
        await self._restraints.end_pause(caller.name, reason)
        self._runs.changed()

    async def paused(self) -> tuple[str, str, datetime] | None:
        """By whom, why and since when."""
        kept = self._restraints.pause
        return None if kept is None else (kept.person, str(kept.value["reason"]), at(kept.changed_ms))

    # ------------------------------------------------------------ what is asked again and again

    async def _book(self, name: str, caller: Caller) -> Book:
        book = self._shelf.books.get(name)
        if book is None:
            raise no_runbook(name)
        await self._study(book)
        if not self._rights.sees(caller, self._hosts_of(book)):
            raise no_runbook(name)
        return book

    async def _usable(self, name: str, caller: Caller) -> Runbook:
        book = await self._book(name, caller)
        if book.runbook is None:
            raise Refused(f"{name} cannot be read: watchbill runbooks lint {name}")
        return book.runbook

    async def _study(self, *books: Book) -> None:
        """What is wrong with runbooks and which hosts they touch, where that is not known of this fleet: in a thread,
        because over a thousand hosts it takes seconds."""
        generation = self._fleet.generation
        todo = [
            book
            for book in books
            if book.runbook is not None and self._studied.get(book.digest, _NEVER)[0] != generation
        ]
        if not todo:
            return
        # Applications are told of at any time: what is wrong with those is looked at when somebody asks.
        world, around = self._fleet(), replace(self._around_now(whole=True), apps=None)

        def work() -> None:
            for book in todo:
                assert book.runbook is not None
                judged = self._judge(book.runbook, {}, drill=False)
                planned = plan(book.runbook, judged, world.fleet, world.facts, books=around.books)
                found = tuple(_finding(one) for one in lint(book.runbook, around))
                self._studied[book.digest] = (generation, _hosts(planned), found)

        await asyncio.to_thread(work)

    def _judge(self, runbook: Runbook, given: Mapping[str, str], drill: bool) -> Judged:
        now = datetime.fromtimestamp(self._clock.wall_ms() / 1000, UTC)
        return judge_parameters(runbook, given, now, drill=drill)

    async def _planned(self, runbook: Runbook, judged: Judged, drill: bool) -> Planned:
        world, books = self._fleet(), self._shelf.in_force
        return await asyncio.to_thread(
            lambda: plan(runbook, judged, world.fleet, world.facts, drill=drill, books=books)
        )

    def _problems(self, runbook: Runbook, drill: bool) -> list[str]:
        """Why a runbook may not be run at all now."""
        found: list[str] = []
        if self._restraints.paused:
            found.append(f"automation is paused {self._restraints.paused}: watchbill automation resume")
        if drill:
            if runbook.drill is None:
                found.append(f"{runbook.name} says nothing of drills")
            return found
        try:
            called = called_by(runbook, self._shelf.in_force)
        except Refused as exc:
            return [*found, str(exc)]
        for name, digest in {runbook.name: runbook.digest, **called}.items():
            if self._shelf.acceptance(digest) is None:
                found.append(f"nobody has accepted this text of {name}: watchbill runbooks accept {name}")
        return found

    def _hosts_of(self, book: Book) -> tuple[str, ...]:
        """The hosts that a runbook touches with its defaults, as it was last studied."""
        return self._studied.get(book.digest, _NEVER)[1]

    def _around_now(self, *, whole: bool) -> Around:
        return Around(
            fleet=self._fleet.fleet() if whole else None,
            books=self._shelf.in_force,
            alerts=self._around.alerts,
            backups=self._around.backups,
            channels=self._around.channels,
            roles=self._around.roles,
            apps=self.apps() if whole else None,
        )

    def _findings_of(self, book: Book) -> tuple[Finding, ...]:
        if book.runbook is None:
            return tuple(
                Finding(
                    file=one.file,
                    line=one.line,
                    where=one.key,
                    severity="error",
                    message=f"got {one.got}, wanted {one.wanted}",
                )
                for one in book.mistakes
            )
        apps = self.apps()
        odd = [] if apps is None else [_finding(one) for one in app_findings(book.runbook, apps)]
        return (*self._studied.get(book.digest, _NEVER)[2], *odd)

    def _view(
        self,
        name: str,
        book: Book,
        past: Sequence[restraint.Past],
        preflights: Mapping[str, PreflightRow],
    ) -> RunbookView:
        runbook = book.runbook
        accepted = self._shelf.acceptance(book.digest)
        looked = preflights.get(name)
        if looked is not None and looked.digest != book.digest:
            looked = None  # It was another text that was looked at.
        drills = [one for one in past if one.runbook == name and one.drill]
        last = max(drills, key=lambda one: one.created_ms, default=None)
        every_s = runbook.drill.every_s if runbook is not None and runbook.drill is not None else 0.0
        held = self.standing(name)
        due_ms = held.due_ms if held is not None else last.created_ms + round(every_s * 1000) if last else 0
        trigger = runbook.trigger if runbook is not None else None
        return RunbookView(
            name=name,
            digest=book.digest,
            about=runbook.about if runbook is not None else "",
            file=book.file,
            accepted_by=accepted.person if accepted is not None else "",
            accepted=at(accepted.at_ms) if accepted is not None else None,
            ready=looked.ready if looked is not None else None,
            not_ready=tuple(looked.problems) if looked is not None else (),
            preflight=at(looked.at_ms) if looked is not None else None,
            rto_s=runbook.rto_s if runbook is not None else 0.0,
            rpo_s=runbook.rpo_s if runbook is not None else 0.0,
            trigger=(trigger.alert or trigger.schedule) if trigger is not None else "",
            automatic=trigger.auto if trigger is not None else False,
            breaker_open=runbook is not None and self._breaker_open(runbook, past),
            drill_every_s=every_s,
            last_drill=at(last.created_ms) if last is not None else None,
            last_drill_state=last.state.value if last is not None else "",
            drill_due=at(due_ms) if due_ms and every_s else None,
            recovery_p90_s=held.p90_s if held is not None else None,
            findings=self._findings_of(book),
            open_runs=sum(live.run.created.runbook == name for live in self._runs.open()),
        )

    def _breaker_open(self, runbook: Runbook, past: Sequence[restraint.Past]) -> bool:
        since_ms = self._restraints.since_ms(runbook.name)
        return restraint.breaker_open(runbook.limits, runbook.name, past, since_ms)

    async def _past(self) -> list[restraint.Past]:
        return await self._runs.past()

    async def _preflights(self) -> dict[str, PreflightRow]:
        site = self._store.site
        return await asyncio.to_thread(
            self._store.read, lambda connection: runbooks.last_preflights(connection, site)
        )

    # ------------------------------------------------------------ one run

    def _names(self, agents: Collection[str]) -> list[str]:
        return [name for agent in agents if (name := self._fleet.name_of(agent))]

    def _summary_hosts(self, live: Live) -> list[str]:
        touched = {target.agent for step in live.run.steps.values() for target in step.targets}
        return self._names(touched | set(live.run.created.hosts))

    def _seen(self, caller: Caller, hosts: Collection[str], run_id: str) -> None:
        if not self._rights.sees(caller, hosts):
            raise no_run(run_id)

    async def _stored(self, run_id: str, caller: Caller) -> RunSummary:
        found = await asyncio.to_thread(self._store.read, lambda connection: runs.summary(connection, run_id))
        if found is None:
            raise no_run(run_id)
        self._seen(caller, self._names(found.hosts), run_id)
        return found

    async def _changing(self, run_id: str, caller: Caller, what: str, *, approving: bool = False) -> Live:
        live = self._runs.get(run_id)
        if live is None:
            summary = await self._stored(run_id, caller)
            raise Refused(f"run {run_id} has ended: it is {summary.state}")
        hosts = self._summary_hosts(live)
        self._seen(caller, hosts, run_id)
        if approving:
            self._rights.may_change(caller, hosts, what, APPROVING_ROLES)
        else:
            self._rights.may_change(caller, hosts, what)
        return live

    def _run_view(self, live: Live) -> RunView:
        return run_view(live.run, live.flow, self._fleet(), self._clock.wall_ms())

    async def _after(self, run_id: str, live: Live) -> RunView:
        """As it is after something was done to it, also when it has ended by that, or could not be written."""
        return self._run_view(self._runs.get(run_id) or live)

    def _listed(self, summary: RunSummary) -> RunView:
        live = self._runs.get(summary.run_id)
        rto_s = live.run.created.rto_ms / 1000 if live is not None else 0.0
        return listed(summary, rto_s)

    def _ended_view(self, summary: RunSummary) -> RunView:
        """A run that is over, from its rows. In a thread."""
        rows = self._store.read(lambda connection: runs.journal(connection, summary.run_id))
        run = folding.fold(summary.run_id, ((row.at_ms, read_row(row.body)) for row in rows))
        if run is None:
            return listed(summary, 0.0)
        self._runs.book.load([run.created.digest, *run.created.called.values()])
        flow = self._runs.book.flow(run.created.digest, run.created.called, run.created.drill)
        if flow is None:
            return listed(summary, run.created.rto_ms / 1000)
        return run_view(run, flow, self._fleet(), self._clock.wall_ms())

    def waits_for(self, run_id: str) -> str:
        """For notices: who has agreed so far at the gates that are open."""
        live = self._runs.get(run_id)
        return "" if live is None else self._votes.so_far(live)


def _hosts(planned: Planned) -> tuple[str, ...]:
    return tuple(sorted({row.host for row in planned.rows if row.host}))


def _finding(one: object) -> Finding:
    return Finding(**{name: getattr(one, name) for name in ("file", "line", "where", "severity", "message")})
