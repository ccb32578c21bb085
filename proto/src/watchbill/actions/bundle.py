"""A bundle: a runbook resolved ahead of time, to be carried out when the collector is gone.

The collector signs it with its command key: text, steps with exact argv, on which hosts, which people have to agree. A
host carries a step out when root there asks for it, by the same rules as an order (`acts` of the runner): its own
allow-list, approvals by the roster, the ledger. The key of a step's command is the one that the collector would have
sent, so what was done from a bundle is not done again by a collector that comes back, for the same run.

What is not known ahead of time (`missing`) is said by who acts; nothing else of a bundle can be said differently.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from watchbill.actions import bounds
from watchbill.actions.canonical import DOCUMENT_BYTES_MAX
from watchbill.actions.definition import NUMBERS, ArgumentRefused, Effect, Kind, Value
from watchbill.actions.grants import ONCE_EACH, UNCOUNTED, Manifest, ProtectedEffect
from watchbill.actions.order import Command, Purpose
from watchbill.actions.signing import Domain, open_signed, sign, unverified
from watchbill.errors import Unreadable

BUNDLE_DAYS_MAX: Final = bounds.AGREED_DAYS_MAX
"""From its issue on. Older ones describe other hosts; a roster is believed no longer either."""
BUNDLE_STEPS_MAX: Final = 1_000
ATTEMPTS_MAX: Final = 1_000
DAY_MS: Final = bounds.DAY_MS
VERSION: Final = 2
"""Since it steps say how often they may begin. A bundle of version 1 is read: its steps may begin once."""
REASON: Final = "without the collector"
PURPOSES: Final = {"do": Purpose.STEP, "undo": Purpose.UNDO, "cleanup": Purpose.CLEANUP}
"""Kinds of steps that run something."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A value that nobody could know ahead of time: what the runbook takes it from, and what it has to be."""

    text: str
    kind: Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleStep:
    """One step on one host, or one that needs none. `kind` is that of a plan; `detail` is for people; `times` is how
    often it may begin once people have agreed; steps of one `group` go together, in any order."""

    step: str
    kind: str
    host: str = ""
    agent: str = ""
    action: str = ""
    action_digest: str = ""
    effect: str = ""
    argv: tuple[str, ...] = ()
    arguments: Mapping[str, Value] = field(default_factory=dict)
    missing: Mapping[str, Missing] = field(default_factory=dict)
    run_as: str = ""
    approvals: int = 0
    role: str = ""
    commit: bool = False
    detail: str = ""
    times: int = ONCE_EACH
    group: str = ""

    @property
    def acts(self) -> bool:
        """Whether a host can carry it out."""
        return self.kind in PURPOSES and bool(self.agent and self.action_digest)

    def bound(self, values: Mapping[str, str]) -> dict[str, Value]:
        """All arguments, with those that were missing. Raises ArgumentRefused."""
        found: dict[str, Value] = dict(self.arguments)
        for name, one in self.missing.items():
            if name not in values:
                raise ArgumentRefused(name, f"has to be found out: it is {one.text} (--set {name}=VALUE)")
            found[name] = _value(name, one.kind, values[name])
        return found


def _value(name: str, kind: Kind, text: str) -> Value:
    if kind not in NUMBERS:
        return text
    try:
        return int(text)
    except ValueError:
        raise ArgumentRefused(name, f"got {text[:40]!a}, wanted a whole number") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """One bundle. Times are UTC milliseconds of the collector. `run` names the run whose steps these are; `requester`
    is who had it made, and so agrees to nothing in it. `roster` is signed, b"" where the collector has none."""

    id: str
    site: str
    epoch: int
    run: str
    requester: str
    runbook: str
    digest: str
    text: str
    parameters: Mapping[str, str]
    lock: str
    rto_ms: int
    rpo_ms: int
    issued_ms: int
    expires_ms: int
    steps: tuple[BundleStep, ...]
    problems: tuple[str, ...] = ()
    roster: bytes = b""
    version: int = VERSION

    def fault(self, now_ms: int) -> str:
        """Why nothing is done by it now, or ""."""
        if self.expires_ms - self.issued_ms > BUNDLE_DAYS_MAX * DAY_MS:
            return f"the bundle is good for more than {BUNDLE_DAYS_MAX} days, as none is"
        if now_ms >= self.expires_ms:
            return f"the bundle ended {(now_ms - self.expires_ms) // DAY_MS} days ago: export a new one"
        if self.issued_ms > now_ms + bounds.CLOCK_AHEAD_MS_MAX:
            return "the bundle comes from the future: one of the clocks is wrong"
        return ""

    def of(self, step: str, kind: str = "do", agent: str = "") -> tuple[BundleStep, ...]:
        """What a step does, on every host or on one."""
        return tuple(
            one
            for one in self.steps
            if one.acts and one.step == step and one.kind == kind and agent in ("", one.agent)
        )

    def before(self, one: BundleStep) -> tuple[BundleStep, ...]:
        """What has to have gone well on a step's host before it, in order: everything there with an effect. Before an
        undo there is no order but that its own step has begun."""
        found: list[BundleStep] = []
        for other in self.steps:
            if other.step == one.step:
                break
            apart = not one.group or other.group != one.group
            if other.acts and other.kind == "do" and other.agent == one.agent and apart:
                found.append(other)
        return tuple(each for each in found if each.effect != Effect.READ.value)

    def key(self, one: BundleStep, attempt: int, run: str, values: Mapping[str, str]) -> str:
        """The name of an attempt in its host's ledger. Raises ArgumentRefused."""
        return self._bare(one, attempt, run, values).key(self.site, one.agent)

    def manifest(
        self, step: str, kind: str, run: str, values: Mapping[str, str], attempt: int = 1
    ) -> Manifest:
        """What people agree to before a step: all that it does, on all its hosts, as often as it is tried again by
        itself. Each attempt beyond is agreed to anew, for itself. The same for who signs and for the host. Raises
        ArgumentRefused.
        """
        steps = self.of(step, kind)
        most = max((one.times for one in steps), default=ONCE_EACH)
        beyond = most != UNCOUNTED and attempt > most
        return Manifest(
            version=self.version,
            site=self.site,
            run=run or self.run,
            runbook=self.runbook,
            runbook_digest=self.digest,
            gate=step if kind == "do" else f"{step}/{kind}",
            requester=self.requester,
            reason=f"{REASON}, by the bundle {self.id}" + (f", attempt {attempt}" if beyond else ""),
            drill=False,
            opened_ms=self.issued_ms,
            expires_ms=self.expires_ms,
            effects=tuple(
                ProtectedEffect(
                    step=one.step,
                    agent=one.agent,
                    host=one.host,
                    action=one.action,
                    action_digest=one.action_digest,
                    arguments=one.bound(values),
                    times=ONCE_EACH if beyond else one.times,
                )
                for one in steps
            ),
        )

    def command(
        self, one: BundleStep, attempt: int, run: str, values: Mapping[str, str], votes: Sequence[bytes]
    ) -> Command:
        """What a host does for a step. Raises ArgumentRefused, Unreadable."""
        bare = self._bare(one, attempt, run, values)
        if not one.approvals:
            return replace(bare, votes=tuple(votes))
        content = self.manifest(one.step, one.kind, run, values, attempt).content()
        return replace(bare, manifest=content, votes=tuple(votes))

    def _bare(self, one: BundleStep, attempt: int, run: str, values: Mapping[str, str]) -> Command:
        return Command(
            run=run or self.run,
            runbook=self.runbook,
            runbook_digest=self.digest,
            step=one.step,
            attempt=attempt,
            purpose=PURPOSES[one.kind],
            host=one.host,
            action=one.action,
            action_digest=one.action_digest,
            arguments=one.bound(values),
            lock=self.lock,
        )


def sign_bundle(seed: bytes, bundle: Bundle) -> bytes:
    """As it is handed out. Raises Unreadable when it holds too much."""
    signed = sign(Domain.BUNDLE, seed, _document(bundle))
    if len(signed) > DOCUMENT_BYTES_MAX or len(bundle.steps) > BUNDLE_STEPS_MAX:
        raise Unreadable(
            f"a bundle of {len(bundle.steps)} steps and {len(signed)} bytes, wanted at most {BUNDLE_STEPS_MAX} and "
            f"{DOCUMENT_BYTES_MAX}: export it for fewer hosts"
        )
    return signed


def open_bundle(key: bytes, signed: bytes) -> Bundle:
    """A bundle that the collector has signed. Raises SignatureRefused, Unreadable."""
    return read_bundle(open_signed(Domain.BUNDLE, key, signed))


def glance(signed: bytes) -> Bundle:
    """What a bundle says of itself, for who shows it or signs a vote; hosts verify it. Raises Unreadable."""
    return read_bundle(unverified(signed))


def _document(bundle: Bundle) -> dict[str, Any]:
    return {
        "v": bundle.version,
        "id": bundle.id,
        "site": bundle.site,
        "epoch": bundle.epoch,
        "run": bundle.run,
        "requester": bundle.requester,
        "runbook": bundle.runbook,
        "digest": bundle.digest,
        "text": bundle.text,
        "parameters": dict(bundle.parameters),
        "lock": bundle.lock,
        "rto_ms": bundle.rto_ms,
        "rpo_ms": bundle.rpo_ms,
        "issued_ms": bundle.issued_ms,
        "expires_ms": bundle.expires_ms,
        "problems": list(bundle.problems),
        "roster": base64.b64encode(bundle.roster).decode("ascii"),
        "steps": [_step_document(one, bundle.version) for one in bundle.steps],
    }


def _step_document(one: BundleStep, version: int) -> dict[str, Any]:
    said = {"times": one.times, "group": one.group} if version > 1 else {}
    return said | {
        "step": one.step,
        "kind": one.kind,
        "host": one.host,
        "agent": one.agent,
        "action": one.action,
        "action_digest": one.action_digest,
        "effect": one.effect,
        "argv": list(one.argv),
        "arguments": dict(one.arguments),
        "missing": {name: {"text": lack.text, "type": lack.kind.value} for name, lack in one.missing.items()},
        "run_as": one.run_as,
        "approvals": one.approvals,
        "role": one.role,
        "commit": one.commit,
        "detail": one.detail,
    }


def read_bundle(document: Mapping[str, Any]) -> Bundle:
    """A bundle from what was signed. Raises Unreadable."""
    try:
        steps = document["steps"]
        version = document["v"]
        if version not in (1, VERSION) or len(steps) > BUNDLE_STEPS_MAX:
            raise ValueError(f"version {version!a:.20}, {len(steps)} steps")
        return Bundle(
            version=int(version),
            id=str(document["id"]),
            site=str(document["site"]),
            epoch=int(document["epoch"]),
            run=_short(document["run"]),
            requester=str(document["requester"]),
            runbook=_short(document["runbook"]),
            digest=str(document["digest"]),
            text=str(document["text"]),
            parameters={str(name): str(value) for name, value in document["parameters"].items()},
            lock=str(document["lock"]),
            rto_ms=int(document["rto_ms"]),
            rpo_ms=int(document["rpo_ms"]),
            issued_ms=int(document["issued_ms"]),
            expires_ms=int(document["expires_ms"]),
            steps=tuple(_step(one, int(version)) for one in steps),
            problems=tuple(str(one) for one in document["problems"]),
            roster=base64.b64decode(document["roster"], validate=True),
        )
    except (KeyError, ValueError, TypeError, AttributeError, binascii.Error) as exc:
        raise Unreadable(f"a bundle: {exc!r}") from exc


def _step(found: Mapping[str, Any], version: int) -> BundleStep:
    return BundleStep(
        step=_short(found["step"], 2 * bounds.NAME_CHARACTERS_MAX),
        kind=str(found["kind"]),
        host=str(found["host"]),
        agent=str(found["agent"]),
        action=str(found["action"]),
        action_digest=str(found["action_digest"]),
        effect=str(found["effect"]),
        argv=tuple(str(one) for one in found["argv"]),
        arguments={
            str(name): value
            for name, value in found["arguments"].items()
            if isinstance(value, (str, int)) and not isinstance(value, bool)
        },
        missing={
            str(name): Missing(str(one["text"]), Kind(one["type"])) for name, one in found["missing"].items()
        },
        run_as=str(found["run_as"]),
        approvals=int(found["approvals"]),
        role=str(found["role"]),
        commit=found["commit"] is True,
        detail=str(found["detail"]),
        times=_times(found["times"]) if version > 1 else ONCE_EACH,
        group=str(found["group"]) if version > 1 else "",
    )


def _times(found: object) -> int:
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found <= bounds.TIMES_MAX:
        raise ValueError(f"times {found!a:.20}")
    return found


def _short(found: object, characters_max: int = bounds.NAME_CHARACTERS_MAX) -> str:
    if not isinstance(found, str) or len(found) > characters_max:
        raise ValueError(f"wanted text of at most {characters_max} characters")
    return found
