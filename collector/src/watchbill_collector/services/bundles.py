"""Bundles: a runbook resolved now and signed, to be carried out when this collector is gone.

What nobody knows yet - what a look would bring - stays open in it, and is said by who acts. Everything else is fixed:
hosts, actions by their digests, arguments, who has to agree. That it was made is in the audit before it is handed out.
"""

import asyncio
import base64
import hashlib
import uuid
from collections.abc import Callable, Mapping
from typing import Final

from watchbill.actions.bundle import DAY_MS, Bundle, BundleStep, Missing, sign_bundle
from watchbill.clock import Clock
from watchbill.errors import Refused, Unreadable
from watchbill_collector.api.bundle_port import BundleView
from watchbill_collector.api.ports import Caller
from watchbill_collector.audit import Audit
from watchbill_collector.runbooks.fleet import Fleet
from watchbill_collector.runbooks.planning import PlanRow
from watchbill_collector.services.runbook_desk import Exported, RunbookDesk
from watchbill_collector.store import Store, rosters

GOOD_DAYS: Final = 90
"""How long a bundle is good: as long as a roster is believed."""


class Bundles:
    """`api.bundle_port.BundleService`. `seed` is the command key; `fleet` and `epoch` are asked each time."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        audit: Audit,
        desk: RunbookDesk,
        seed: bytes,
        fleet: Callable[[], Fleet],
        epoch: Callable[[], int],
    ) -> None:
        self._store = store
        self._clock = clock
        self._audit = audit
        self._desk = desk
        self._seed = seed
        self._fleet = fleet
        self._epoch = epoch

    async def export(self, name: str, given: Mapping[str, str], run: str, caller: Caller) -> BundleView:
        """One, signed."""
        found = await self._desk.exported(name, given, run, caller)
        site = self._store.site
        newest = await asyncio.to_thread(self._store.read, lambda c: rosters.newest(c, site))
        bundle = self._bundle(found, caller.name, b"" if newest is None else newest.signed)
        try:
            signed = sign_bundle(self._seed, bundle)
        except Unreadable as exc:
            raise Refused(f"{name}: {exc}") from exc
        digest = hashlib.sha256(signed).hexdigest()
        detail = {"bundle": bundle.id, "sha256": digest, "digest": bundle.digest, "run": bundle.run}
        await self._audit.record_async(caller.name, "runbook.export", name, detail=detail)
        return BundleView(bundle.id, base64.b64encode(signed).decode("ascii"), digest)

    def _bundle(self, found: Exported, person: str, roster: bytes) -> Bundle:
        now_ms, runbook = self._clock.wall_ms(), found.runbook
        bundle_id = uuid.uuid4().hex[:12]
        fleet = self._fleet()
        return Bundle(
            id=bundle_id,
            site=self._store.site,
            epoch=self._epoch(),
            run=found.run or f"bundle-{bundle_id}",
            requester=found.requester or person,
            runbook=runbook.name,
            digest=runbook.digest,
            text=found.text,
            parameters=dict(found.parameters),
            lock=found.planned.lock,
            rto_ms=round(runbook.rto_s * 1000),
            rpo_ms=round(runbook.rpo_s * 1000),
            issued_ms=now_ms,
            expires_ms=now_ms + GOOD_DAYS * DAY_MS,
            problems=found.planned.problems,
            roster=roster,
            steps=tuple(_step(row, fleet) for row in found.planned.rows),
        )


def _step(row: PlanRow, fleet: Fleet) -> BundleStep:
    host = fleet.host(row.host) if row.host else None
    action = None if host is None else (host.actions or {}).get(row.action)
    missing: dict[str, Missing] = {}
    for name, text in row.missing.items():
        argument = None if action is None else action.argument(name)
        if argument is not None:
            missing[name] = Missing(text, argument.kind)
    return BundleStep(
        step=row.step,
        kind=row.kind,
        host=row.host,
        agent=row.agent or ("" if host is None else host.agent),
        action=row.action,
        # Of what cannot be bound for another reason than a missing value nothing can be carried out.
        action_digest=row.digest if row.arguments is not None or missing else "",
        effect=row.effect,
        argv=row.argv,
        arguments=dict(row.given if row.arguments is None else row.arguments),
        missing=missing,
        run_as=row.run_as,
        approvals=row.approvals,
        role=row.role,
        commit=row.commit,
        detail=row.detail,
        times=row.times,
        group=row.group,
    )
