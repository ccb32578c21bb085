"""What a runbook says, after it was read: an ordered list of steps over actions that hosts allow.

No graph, no loops, no templates, no shell. Durations are seconds. `line` is where something stands in its file, from 1.
Expressions and values are kept as text beside what they were read to, so that people are shown what was written.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from watchbill_collector.runbooks.expression import Expression

STEPS_MAX: Final = 200
"""Of one runbook, those of parallel groups counted."""
PARAMETERS_MAX: Final = 32
HOSTS_MAX: Final = 1_000
"""Hosts of one step."""


class OnFail(StrEnum):
    """What a failed step does to its run."""

    HOLD = "hold"
    """A person decides."""
    UNDO = "undo"
    """The undo of each finished step, in reverse."""
    STOP = "stop"
    """The run has failed."""
    CONTINUE = "continue"
    """It is noted; the run can still succeed."""


class ParameterKind(StrEnum):
    """What a parameter is."""

    HOST = "host"
    NAME = "name"
    STRING = "string"
    INT = "int"
    SIZE = "size"
    DURATION = "duration"
    PATH = "path"
    ENUM = "enum"
    BACKUP = "backup"
    TIME = "time"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter. `default` is text as it was written; None: it has to be given."""

    name: str
    kind: ParameterKind
    default: str | None = None
    choices: tuple[str, ...] = ()
    match: str = ""
    least: str = ""
    most: str = ""
    about: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Template:
    """A value with at most one `{{expression}}`, which is then all of it, or plain text (`expression` is None); inside
    a lock and an explanation there may be several, which are joined (`pieces`)."""

    text: str
    pieces: tuple[str | Expression, ...]
    line: int = 0

    @property
    def expression(self) -> Expression | None:
        """What the whole value is, when it is one expression."""
        only = self.pieces[0] if len(self.pieces) == 1 else None
        return None if only is None or isinstance(only, str) else only


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """On which hosts: `hosts` by name (templates), or every host that `select`, a selector, takes in. With `select`
    they are gone through in waves of `wave_share` (a fraction) or `wave_hosts`; more than `max_failures` end it."""

    hosts: tuple[Template, ...] = ()
    select: str = ""
    wave_share: float = 1.0
    wave_hosts: int = 0
    max_failures: int = 0
    line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """Run an action on hosts: a step's `do`, an undo, a clean-up."""

    action: str
    on: Target
    arguments: Mapping[str, Template] = field(default_factory=dict)
    line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """An expression that has to be true: at once, or `within` so long; with `hold_s` it has to stay true so long."""

    condition: Expression
    within_s: float = 0.0
    hold_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """`count` different people of a role have to agree; `own_vote`: the starter's own counts, too."""

    role: str
    count: int = 1
    own_vote: bool = False


@dataclass(frozen=True, slots=True)
class Notify:
    """A message to a channel; whether it arrives changes nothing for the run."""

    channel: str
    text: Template | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """Another runbook as a part of this run, one level deep, under the same lock."""

    runbook: str
    parameters: Mapping[str, Template] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Parallel:
    """Steps that begin together; it is well when all are."""

    steps: "tuple[Step, ...]"


What = Act | Check | Gate | Notify | Call | Parallel


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step. `commit` is the point of no return: from its intent on nothing is undone automatically.

    `drill`: whether it is left out in a drill ("skip"), or done there as well ("run", the default); a step that is
    only for drills says "only". `clock_stop`: with it the service is back, and the recovery time ends.
    """

    id: str
    what: What
    when: Expression | None = None
    timeout_s: float = 0.0
    retry_times: int = 0
    retry_delay_s: float = 0.0
    undo: Act | None = None
    on_fail: OnFail | None = None
    commit: bool = False
    drill: str = "run"
    clock_stop: bool = False
    line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a run may not exceed, 0 for no limit. `max_runs` within `max_within_s`; after `breaker` runs that did not
    end well, triggers only propose until a person resets it."""

    hosts: int = 0
    cooldown_s: float = 0.0
    max_runs: int = 0
    max_within_s: float = 0.0
    breaker: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """Which alert starts it. `agree_least` of the views in `agree` have to be of its opinion, with evidence that is
    fresh and complete; else it proposes. `schedule` is a cron line in `zone`, instead of an alert."""

    alert: str = ""
    for_s: float = 0.0
    agree: tuple[Template, ...] = ()
    agree_least: int = 0
    auto: bool = False
    schedule: str = ""
    zone: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Drill:
    """The rehearsal: every so often, with other parameters, cleaned up after in any case. `clock_stop` names the step
    at which the recovery time of a drill ends; `auto`: it begins by itself when it is due."""

    every_s: float = 0.0
    auto: bool = False
    parameters: Mapping[str, str] = field(default_factory=dict)
    clock_stop: str = ""
    cleanup: tuple[Act, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Runbook:
    """One runbook. `digest` is SHA-256 of its file's bytes: what people accept, approve and run is this very text."""

    name: str
    digest: str
    about: str = ""
    parameters: tuple[Parameter, ...] = ()
    lock: Template | None = None
    rto_s: float = 0.0
    rpo_s: float = 0.0
    limits: Limits = Limits()
    trigger: Trigger | None = None
    drill: Drill | None = None
    on_fail: OnFail = OnFail.HOLD
    confirm: str = ""
    """The parameter whose value has to be typed to start it: set where a step is marked `commit`; "" asks for none."""
    steps: tuple[Step, ...]
    file: str = ""

    def walk(self) -> Iterator[Step]:
        """Every step, those of parallel groups after the group they are in."""
        for step in self.steps:
            yield step
            if isinstance(step.what, Parallel):
                yield from step.what.steps

    def step(self, step_id: str) -> Step | None:
        """By its id."""
        return next((one for one in self.walk() if one.id == step_id), None)

    def parameter(self, name: str) -> Parameter | None:
        """By its name."""
        return next((one for one in self.parameters if one.name == name), None)
