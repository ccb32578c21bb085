"""Votes at the gates of open runs: whether they count, and how they are kept. Who may vote at all, the desk knows."""

import base64
from typing import Final

import sqlalchemy as sa

from watchbill.actions.roster import Roster
from watchbill.actions.signing import SignatureRefused
from watchbill.clock import Clock
from watchbill.errors import Refused, Unreadable
from watchbill_collector.api.ports import Caller, NoSuch
from watchbill_collector.api.runbook_port import ENDED, shown
from watchbill_collector.audit import Entry
from watchbill_collector.runbooks.model import Gate
from watchbill_collector.runbooks.run.gates import judge_signed, tally
from watchbill_collector.runbooks.run.progress import GateProgress
from watchbill_collector.runbooks.run.rows import Row, Voted
from watchbill_collector.runbooks.run.words import RunState
from watchbill_collector.services.run_fleet import FleetView
from watchbill_collector.services.run_open import Live
from watchbill_collector.services.runs import Runs
from watchbill_collector.store import Store, votes

COMMENT_CHARACTERS_MAX: Final = 500


class Votes:
    """See the module. On the loop."""

    def __init__(self, store: Store, clock: Clock, running: Runs, fleet: FleetView) -> None:
        self._store = store
        self._clock = clock
        self._runs = running
        self._fleet = fleet

    async def signed(self, live: Live, step: str, signed: bytes, caller: Caller) -> None:
        """Keep a signed vote. Raises NoSuch, Refused with why it does not count."""
        gate = self._open_gate(live, step)
        try:
            person, approve, why_not = judge_signed(gate, signed, self._fleet(), self._clock.wall_ms())
        except (SignatureRefused, Unreadable) as exc:
            raise Refused(str(exc)) from exc
        if why_not:
            raise Refused(f"{person}: {why_not}")
        await self._keep(live, step, person, approve, "", signed, caller)

    async def by_login(self, live: Live, step: str, yes: bool, comment: str, caller: Caller) -> None:
        """Keep the word of who is logged in. Raises NoSuch, Refused."""
        run_id, gate = live.run.run_id, self._open_gate(live, step)
        if gate.opened.on_host:
            raise Refused(f"hosts look at this gate themselves: watchbill approve {run_id} {step}")
        if yes and caller.name == live.run.requester and not gate.opened.own_vote:
            raise Refused(f"{caller.name} asked for it himself: somebody else has to agree")
        fault = _role_fault(self._fleet().roster, caller.name, gate.opened.role)
        if fault:
            raise Refused(fault)
        await self._keep(live, step, caller.name, yes, comment[:COMMENT_CHARACTERS_MAX], b"", caller)

    async def _keep(
        self, live: Live, step: str, person: str, yes: bool, comment: str, signed: bytes, caller: Caller
    ) -> None:
        run_id, digest = live.run.run_id, self._open_gate(live, step).opened.digest
        word = base64.b64encode(signed).decode("ascii") if signed else ""
        vote = Voted(step=step, person=person, approve=yes, digest=digest, signed=word, comment=comment)
        row = votes.VoteRow(
            run_id=run_id,
            step=step,
            manifest_digest=digest,
            person=person,
            approve=yes,
            at_ms=self._clock.wall_ms(),
            comment=comment,
            signed=signed,
        )
        detail = {"step": step, "approve": yes, "person": person, "manifest": digest, "signed": bool(signed)}
        entry = Entry(actor=caller.name, action="run.vote", target=run_id, detail=detail)

        def decide() -> list[Row]:
            if self._open_gate(live, step).opened.digest != digest:
                raise Refused(f"what {step} of {run_id} asks has changed: read it again")
            return [vote]

        def keep(connection: sa.Connection) -> None:
            votes.add(connection, self._store.site, row)

        await self._runs.add(live, decide, entry, keep)
        await self._runs.turn()

    def _open_gate(self, live: Live, step: str) -> GateProgress:
        run_id, flat = live.run.run_id, live.flow.steps.get(step)
        if flat is None or not isinstance(flat.step.what, Gate):
            raise NoSuch(f"the run {run_id} has no gate {shown(step)}")
        gate = live.run.step(step).gate
        if gate is None or gate.closed is not None or live.run.state in ENDED:
            raise Refused(f"the gate {step} of {run_id} is not open: it is {live.run.step(step).state.value}")
        return gate

    def so_far(self, live: Live) -> str:
        """Who has agreed so far at the gates that are open, "" where the run waits for nobody."""
        if live.run.state is not RunState.WAITING:
            return ""
        found = [
            f"{step.id}: {len(tally(live.run, step.gate, self._fleet(), self._clock.wall_ms()).agreed)} of "
            f"{step.gate.opened.count}"
            for step in live.run.steps.values()
            if step.gate is not None and step.gate.closed is None
        ]
        return ", ".join(found)


def _role_fault(roster: Roster | None, person: str, role: str) -> str:
    """Why somebody's word at the page does not count for a role, or "". Where a roster says who has which role, it
    decides; without one every approver may."""
    if roster is None:
        return ""
    known = roster.person(person)
    if known is None:
        return f"{person} is not on the roster, which says who is {role}"
    return "" if role in known.roles else f"{person} is not {role} on the roster"
