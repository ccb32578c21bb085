"""What comes next in a run: rows to write, then what to do. Pure: (run, flow, world, now) -> `Move`.

    PROPOSED -> QUEUED -> RUNNING <-> WAITING -> SUCCEEDED
    a failure: HELD (a person decides), UNDOING -> UNDONE, FAILED, or noted; after a commit never UNDOING by itself
    abort: CANCELLING -> CANCELLED; a drill is cleaned up after before it ends in any state

A list is gone through from its top: the first unit that has not ended is the one that matters. `settle` makes moves
until nothing is left to decide without news from outside.
"""

from watchbill.actions.definition import Effect
from watchbill_collector.runbooks.model import Act, Call, Check, Gate, Notify, OnFail
from watchbill_collector.runbooks.run import attempts, checking, fresh
from watchbill_collector.runbooks.run.acting import Acted, Came, begin, go_on
from watchbill_collector.runbooks.run.flow import FlatStep, Flow, Unit
from watchbill_collector.runbooks.run.fold import apply
from watchbill_collector.runbooks.run.gates import lapsed, to_void
from watchbill_collector.runbooks.run.progress import Run, StepProgress
from watchbill_collector.runbooks.run.rows import (
    AnyRow,
    Intent,
    PhaseBegan,
    Recovered,
    Refresh,
    Row,
    State,
    StepBegan,
    StepEnded,
)
from watchbill_collector.runbooks.run.words import (
    ENDED,
    AttemptState,
    Phase,
    RunState,
    StepState,
    Verdict,
)
from watchbill_collector.runbooks.run.world import DETAIL_MAX, MOVES_MAX, Move, Tell, World


def settle(run: Run, flow: Flow, world: World, now_ms: int) -> Move:
    """Moves until none is left; the run is changed as if all rows were written already. Nothing may be done before they
    are; if they cannot be written the run is to be folded anew."""
    total = Move()
    for _ in range(MOVES_MAX):
        move = decide(run, flow, world, now_ms)
        for one in move.rows:
            apply(run, now_ms, _any(one))
        total.rows += move.rows
        total.effects += move.effects
        if not move.rows:
            total.wake_ms, total.waiting = move.wake_ms, move.waiting
            return total
        if any(isinstance(one, Tell) for one in move.effects):
            # It goes on once the message is handed over.
            total.wake_ms = now_ms
            return total
    raise AssertionError(f"run {run.run_id} does not settle: {total.rows[-3:]}")


def _any(one: Row) -> AnyRow:
    return one  # type: ignore[return-value] # Every kind of row is one of them.


def decide(run: Run, flow: Flow, world: World, now_ms: int) -> Move:
    """One move."""
    if run.state in ENDED:
        return Move()
    if run.state is RunState.PROPOSED:
        return _proposed(run, now_ms)
    if run.state is RunState.QUEUED:
        return _queued(run, world)
    void = to_void(run, world)
    if void:
        return Move(list(void))
    move = attempts.keep(run, flow, world, now_ms)
    if move.rows:
        return move
    if run.n >= world.rows_max and run.state not in {RunState.HELD, RunState.CANCELLING}:
        return Move([State(state=RunState.HELD.value, detail="its journal is as long as one may be")])
    following = _Decider(run, flow, world, now_ms).following()
    if following.rows:
        return following
    if move.wake_ms is not None:
        following.wake(move.wake_ms)
    following.waiting = following.waiting or move.waiting
    return _stand(run, world, following)


def _proposed(run: Run, now_ms: int) -> Move:
    move = Move()
    if run.created.expires_ms and now_ms >= run.created.expires_ms:
        move.rows.append(State(state=RunState.EXPIRED.value, detail="nobody started it"))
    elif run.created.expires_ms:
        move.wake(run.created.expires_ms)
    return move


def _queued(run: Run, world: World) -> Move:
    if not world.why_not:
        return Move([State(state=RunState.RUNNING.value)])
    if run.detail != world.why_not:
        return Move([State(state=RunState.QUEUED.value, detail=world.why_not[:DETAIL_MAX])])
    return Move()


def _stand(run: Run, world: World, move: Move) -> Move:
    """Nothing is to be done: the run runs as long as a host is at work, else it waits."""
    if run.state not in {RunState.RUNNING, RunState.WAITING}:
        return move
    busy = any(
        one.state is not AttemptState.INTENDED and world.connected(one.agent) for one in run.open_attempts()
    )
    away = sorted({one.host for one in run.open_attempts() if not world.connected(one.agent)})
    waiting = move.waiting or (f"{', '.join(away[:3])} away" if away else "")
    wanted = RunState.WAITING if waiting and not busy else RunState.RUNNING
    detail = waiting[:DETAIL_MAX] if wanted is RunState.WAITING else ""
    if (run.state, run.detail) != (wanted, detail):
        move.rows.append(State(state=wanted.value, detail=detail))
    return move


class _Decider:
    """One move of a run that has begun."""

    def __init__(self, run: Run, flow: Flow, world: World, now_ms: int) -> None:
        self._run = run
        self._flow = flow
        self._world = world
        self._now_ms = now_ms

    def following(self) -> Move:
        """By its state and phase."""
        run = self._run
        if run.state is RunState.HELD:
            return Move()
        if run.state is RunState.CANCELLING and run.aborts > 1:
            return Move([State(state=RunState.CANCELLED.value, detail=self._left_over("not cleaned up"))])
        if run.phase is Phase.CLEANUP:
            return self._cleanup()
        if run.state is RunState.CANCELLING:
            return Move() if run.open_keys else self._finish(RunState.CANCELLED, self._left_over(""))
        if run.phase is Phase.UNDO:
            return self._undo()
        return self._forward()

    def _left_over(self, detail: str) -> str:
        unknown = [f"{one.action} on {one.host}" for one in self._run.unknown_attempts()]
        unknown += [f"{one.action} on {one.host}" for one in self._run.open_attempts() if one.may_have_run]
        parts = [detail] if detail else []
        if unknown:
            parts.append(f"unknown: {', '.join(unknown)}")
        return "; ".join(parts)[:DETAIL_MAX]

    # ------------------------------------------------------------ forward

    def _forward(self) -> Move:
        if self._run.fresh is not None:
            return self._refresh()
        for position, unit in enumerate(self._flow.units):
            move = self._unit(position, unit)
            if move is not None:
                return move
        return self._finish(RunState.SUCCEEDED, "")

    def _unit(self, position: int, unit: Unit) -> Move | None:
        """What a unit needs; None when it is over, or is not to be done at all."""
        run, head = self._run, unit.head
        step = run.step(head.id)
        if step.ended:
            return None
        if head.caller and run.step(head.caller).ended:
            return None
        if unit.ends_call:
            return Move(self._ended(head, StepState.OK, ""))
        if isinstance(head.step.what, Call) and step.state is StepState.RUNNING:
            return None
        if not unit.parallel:
            return self._single(position, head)
        return self._group(position, unit)

    def _single(self, position: int, head: FlatStep) -> Move:
        move = Move()
        acted = self._act(position, head, move)
        move.rows += acted.rows
        if acted.came is Came.OK:
            move.rows += self._ended(head, StepState.OK, acted.detail)
        elif acted.came is Came.FAILED:
            move.rows += self._failed(head, head.on_fail, acted.detail)
        elif acted.came is Came.STUCK:
            move.rows.append(self._hold(head.id, acted.detail))
        return self._pending(move, acted)

    def _group(self, position: int, unit: Unit) -> Move:
        move = Move()
        step = self._run.step(unit.head.id)
        if step.state is StepState.PENDING:
            verdict, text = checking.judge_when(self._run, self._flow, unit.head, self._world)
            if verdict is Verdict.UNKNOWN:
                return Move([self._hold(unit.head.id, f"when: {text} is unknown")])
            if verdict is Verdict.FALSE:
                return Move(self._ended(unit.head, StepState.SKIPPED, f"when: {text} is false"))
            return Move([checking.began(unit.head.id)])
        stuck: list[tuple[str, str]] = []
        going = False
        for one in unit.steps:
            mine = self._run.step(one.id)
            if mine.state in {StepState.OK, StepState.FAILED, StepState.SKIPPED}:
                continue
            acted = self._act(position, one, move)
            move.rows += acted.rows
            if acted.came is Came.OK:
                move.rows += self._ended(one, StepState.OK, acted.detail)
            elif acted.came is Came.FAILED:
                noted = self._on_fail(one, unit) is OnFail.CONTINUE
                move.rows += self._ended(one, StepState.FAILED, acted.detail, noted=noted)
            elif acted.came is Came.STUCK:
                stuck.append((one.id, acted.detail))
            else:
                going = True
            self._pending(move, acted)
            if any(isinstance(row, Refresh) for row in acted.rows):
                return move
        if move.rows or going:
            return move
        return self._group_over(unit, stuck)

    def _group_over(self, unit: Unit, stuck: list[tuple[str, str]]) -> Move:
        if stuck:
            return Move([self._hold(*stuck[0])])
        for one in unit.steps:
            mine = self._run.step(one.id)
            if mine.state is StepState.FAILED and not mine.noted:
                return Move(self._consequence(one.id, self._on_fail(one, unit), mine.detail))
        return Move(self._ended(unit.head, StepState.OK, ""))

    @staticmethod
    def _on_fail(one: FlatStep, unit: Unit) -> OnFail:
        return one.step.on_fail or unit.head.on_fail

    def _act(self, position: int, flat: FlatStep, move: Move) -> Acted:
        """Look at one step, whatever it is."""
        run, world = self._run, self._world
        step = run.step(flat.id)
        if step.state is StepState.PENDING:
            return self._enter(position, flat)
        match flat.step.what:
            case Act():
                acted = go_on(run, self._flow, step, flat.step, world, self._now_ms)
                return self._guarded(position, flat, step, acted)
            case Check():
                return checking.check(run, self._flow, flat, step, world, self._now_ms)
            case Gate():
                return checking.gate(run, self._flow, flat, step, world, self._now_ms)
            case Notify():
                acted, told = checking.tell(run, self._flow, flat, step, world)
                if told is not None:
                    move.effects.append(told)
                return acted
            case _:
                return Acted(came=Came.FAILED, detail="a step of this kind cannot be here")

    def _enter(self, position: int, flat: FlatStep) -> Acted:
        """A step that has not begun: whether it is to be done, and with what."""
        run, world = self._run, self._world
        verdict, text = checking.judge_when(run, self._flow, flat, world)
        if verdict is Verdict.UNKNOWN:
            return Acted(came=Came.STUCK, detail=f"when: {text} is unknown")
        if verdict is Verdict.FALSE:
            skipped = StepEnded(
                step=flat.id,
                phase=Phase.FORWARD.value,
                state=StepState.SKIPPED.value,
                detail=f"when: {text} is false",
            )
            return Acted(rows=[skipped])
        match flat.step.what:
            case Act():
                made = begin(run, self._flow, flat.id, Phase.FORWARD, flat, flat.step.what, world)
                if isinstance(made, str):
                    return Acted(came=Came.FAILED, detail=made)
                acted = Acted(rows=[made], effect=made.effect != Effect.READ.value)
                return self._guarded(position, flat, run.step(flat.id), acted)
            case Check() if run.step(flat.id).again:
                # To judge once more what was seen before would change nothing.
                wanted = fresh.stale(run, self._flow, position, flat.id)
                return Acted(rows=[wanted if isinstance(wanted, Refresh) else checking.began(flat.id)])
            case Call():
                return checking.call(run, self._flow, flat, run.step(flat.id), world)
            case _:
                return Acted(rows=[checking.began(flat.id)])

    def _guarded(self, position: int, flat: FlatStep, step: StepProgress, acted: Acted) -> Acted:
        """An effect is about to begin: not while everything is paused, not without those who agreed, and not on
        premises that are old."""
        if not acted.effect:
            return acted
        acted = self._agreed(self._unpaused(acted))
        if not acted.effect or fresh.took_effect(step):
            return acted
        wanted = fresh.stale(self._run, self._flow, position, flat.id)
        if wanted is None:
            return acted
        rest = _without_effects(acted)
        if isinstance(wanted, str):
            return Acted(came=Came.STUCK, detail=wanted, rows=rest)
        # Others of the group may still be at work: their rows are not lost by it.
        return Acted(rows=[*rest, wanted])

    def _unpaused(self, acted: Acted) -> Acted:
        if not self._world.paused:
            return acted
        return Acted(rows=_without_effects(acted), waiting=f"automation is paused: {self._world.paused}")

    def _agreed(self, acted: Acted) -> Acted:
        """What people allowed who do not count any more is not begun; a person decides."""
        for one in acted.rows if acted.effect else ():
            gate = self._run.step(one.gate).gate if isinstance(one, Intent) and one.gate else None
            fault = lapsed(gate) if gate is not None else ""
            if fault:
                return Acted(came=Came.STUCK, detail=fault, rows=_without_effects(acted))
        return acted

    def _refresh(self) -> Move:
        """A round of fresh premises: the first that does not hold is a failure of its step."""
        acted, name = fresh.go_through(self._run, self._flow, self._world, self._now_ms)
        move = Move(list(acted.rows))
        if name:
            flat = self._flow.steps[name]
            move.rows += self._failed(flat, flat.on_fail, acted.detail)
        return self._pending(move, acted)

    # ------------------------------------------------------------ undo and clean-up

    def _asked_again(self) -> Move | None:
        """Gates that a person had asked again while things are undone or cleaned up, which go through no gates."""
        for position, unit in enumerate(self._flow.units):
            head, step = unit.head, self._run.step(unit.head.id)
            waits = step.again_in is self._run.phase and step.state in {StepState.PENDING, StepState.RUNNING}
            if not waits or not isinstance(head.step.what, Gate):
                continue
            move = Move()
            acted = self._act(position, head, move)
            move.rows += acted.rows
            if acted.came is Came.OK:
                move.rows += self._ended(head, StepState.OK, acted.detail)
            elif acted.came is not Came.GOES_ON:
                move.rows += self._ended(head, StepState.FAILED, acted.detail)
                move.rows.append(self._hold(head.id, acted.detail))
            elif not acted.rows and acted.waiting and self._run.detail != acted.waiting:
                move.rows.append(State(state=self._run.state.value, detail=acted.waiting[:DETAIL_MAX]))
            return self._pending(move, acted)
        return None

    def _undo(self) -> Move:
        asked = self._asked_again()
        if asked is not None:
            return asked
        for flat in self._undoable():
            assert flat.step.undo is not None
            step = self._run.step(flat.id, Phase.UNDO)
            if step.ended:
                continue
            acted = self._again(flat.id, Phase.UNDO, flat, flat.step.undo)
            move = Move(list(acted.rows))
            if acted.came is Came.OK:
                move.rows.append(_end(flat.id, Phase.UNDO, StepState.OK, acted.detail))
            elif acted.came is not Came.GOES_ON:
                if acted.came is Came.FAILED:
                    move.rows.append(_end(flat.id, Phase.UNDO, StepState.FAILED, acted.detail))
                move.rows.append(self._hold(flat.id, f"not undone: {acted.detail}"))
            return self._pending(move, acted)
        return self._finish(self._run.ending or RunState.UNDONE, self._run.ending_detail)

    def _undoable(self) -> list[FlatStep]:
        """Steps whose effects are to be taken back, the last first: those that did, or may have done, something."""
        found = [
            (step.began_n, self._flow.steps[name])
            for (phase, name), step in self._run.steps.items()
            if phase is Phase.FORWARD and name in self._flow.steps and _may_have_acted(step)
        ]
        found.sort(key=lambda one: one[0], reverse=True)
        return [flat for _, flat in found if flat.step.undo is not None]

    def _cleanup(self) -> Move:
        """Every part of it is tried, also when one before it failed."""
        asked = self._asked_again()
        if asked is not None:
            return asked
        failed: list[tuple[str, str]] = []
        for name, act in self._flow.cleanup():
            step = self._run.step(name, Phase.CLEANUP)
            if step.state in {StepState.OK, StepState.SKIPPED}:
                continue
            if step.state is StepState.FAILED:
                failed.append((name, step.detail))
                continue
            acted = self._again(name, Phase.CLEANUP, None, act)
            move = Move(list(acted.rows))
            if acted.came is Came.OK:
                move.rows.append(_end(name, Phase.CLEANUP, StepState.OK, acted.detail))
            elif acted.came is not Came.GOES_ON:
                move.rows.append(_end(name, Phase.CLEANUP, StepState.FAILED, acted.detail))
            return self._pending(move, acted)
        if failed:
            return Move([self._hold(failed[0][0], f"not cleaned up: {failed[0][1]}")])
        ending = self._run.ending or RunState.SUCCEEDED
        return Move([State(state=ending.value, detail=self._run.ending_detail)])

    def _again(self, name: str, phase: Phase, flat: FlatStep | None, act: Act) -> Acted:
        step = self._run.step(name, phase)
        if step.state is StepState.PENDING:
            made = begin(self._run, self._flow, name, phase, flat, act, self._world)
            if isinstance(made, str):
                return Acted(came=Came.FAILED, detail=made)
            return Acted(rows=[made])
        acted = go_on(self._run, self._flow, step, None, self._world, self._now_ms)
        return self._agreed(self._unpaused(acted)) if acted.effect else acted

    # ------------------------------------------------------------ ends

    def _ended(self, flat: FlatStep, state: StepState, detail: str, *, noted: bool = False) -> list[Row]:
        rows: list[Row] = [_end(flat.id, Phase.FORWARD, state, detail, noted=noted)]
        if state is StepState.OK and flat.id == self._flow.clock_stop and not self._run.recovered_ms:
            rows.append(Recovered(step=flat.id))
        return rows

    def _failed(self, flat: FlatStep, on_fail: OnFail, detail: str) -> list[Row]:
        noted = on_fail is OnFail.CONTINUE
        rows = self._ended(flat, StepState.FAILED, detail, noted=noted)
        return rows if noted else rows + self._consequence(flat.id, on_fail, detail)

    def _consequence(self, name: str, on_fail: OnFail, detail: str) -> list[Row]:
        why = f"{name}: {detail}"[:DETAIL_MAX]
        match on_fail:
            case OnFail.STOP:
                return self._finish(RunState.FAILED, why).rows
            case OnFail.UNDO if not self._run.committed:
                return [
                    PhaseBegan(phase=Phase.UNDO.value, ending=RunState.UNDONE.value, detail=why),
                    State(state=RunState.UNDOING.value, detail=why),
                ]
            case OnFail.UNDO:
                return [self._hold(name, f"{detail}; past the commit nothing is undone by itself")]
            case _:
                return [self._hold(name, detail)]

    def _hold(self, name: str, detail: str) -> State:
        return State(state=RunState.HELD.value, detail=f"{name}: {detail}"[:DETAIL_MAX], step=name)

    def _finish(self, ending: RunState, detail: str) -> Move:
        rows: list[Row] = []
        if ending is RunState.SUCCEEDED and not self._run.recovered_ms and not self._flow.clock_stop:
            rows.append(Recovered(step=""))
        if self._flow.cleanup() and self._run.phase is not Phase.CLEANUP:
            rows.append(PhaseBegan(phase=Phase.CLEANUP.value, ending=ending.value, detail=detail))
        else:
            rows.append(State(state=ending.value, detail=detail))
        return Move(rows)

    def _pending(self, move: Move, acted: Acted) -> Move:
        if acted.wake_ms is not None:
            move.wake(acted.wake_ms)
        move.waiting = move.waiting or acted.waiting
        return move


def _end(name: str, phase: Phase, state: StepState, detail: str, *, noted: bool = False) -> StepEnded:
    return StepEnded(step=name, phase=phase.value, state=state.value, detail=detail[:DETAIL_MAX], noted=noted)


def _may_have_acted(step: StepProgress) -> bool:
    if step.by and step.state is StepState.OK:
        return True
    return any(
        one.may_have_run and one.effect is not Effect.READ
        for tries in step.attempts.values()
        for one in tries
    )


def _without_effects(acted: Acted) -> list[Row]:
    """Rows that intend no effect and begin none."""
    return [
        one
        for one in acted.rows
        if not (isinstance(one, (Intent, StepBegan)) and one.effect not in {"", Effect.READ.value})
    ]
