"""What this host can do, in parts that fit an event each."""

import hashlib
from collections.abc import Sequence

from watchbill.actions.canonical import canonical
from watchbill.actions.definition import Action
from watchbill.actions.outcomes import Inventory
from watchbill_agent.runner import bounds
from watchbill_agent.runner.judging import Host

FAULT_CHARACTERS_MAX = 160
"""Of one fault in an inventory; all of it says `watchbill-agent actions check` on the host."""


def inventory(host: Host, ledger: str, epoch: int, roster_serial: int) -> list[Inventory]:
    """All parts of it. `version` is a digest of the whole."""
    told: list[Action] = []
    too_long: list[Action] = []
    for action in host.allowed.actions.values():
        small = len(canonical(action.document())) <= bounds.INVENTORY_PART_BYTES
        (told if small else too_long).append(action)
    faults = [
        *(fault for fault in (host.enrolled_fault, host.roster_fault) if fault),
        *(f"{one.name}: longer than {bounds.INVENTORY_PART_BYTES} bytes, cannot be told" for one in too_long),
        *host.allowed.faults,
    ]
    shown = [ascii(fault)[1:-1][:FAULT_CHARACTERS_MAX] for fault in faults[: bounds.FAULTS_TOLD_MAX]]
    if len(faults) > len(shown):
        shown.append(f"{len(faults) - len(shown)} more faults")
    whole = Inventory(
        version="",
        runner=True,
        ledger=ledger,
        epoch=epoch,
        roster_serial=roster_serial,
        roster_keys=tuple(sorted(host.roster_keys)),
        actions=tuple(told),
        faults=tuple(shown),
    )
    version = hashlib.sha256(b"watchbill/inventory/v1\0" + _content(whole)).hexdigest()
    packs = _packs(told)
    return [
        Inventory(
            version=version,
            part=number,
            parts=len(packs),
            runner=True,
            ledger=ledger,
            epoch=epoch,
            roster_serial=roster_serial,
            roster_keys=whole.roster_keys,
            actions=tuple(pack),
            faults=whole.faults if number == 0 else (),
        )
        for number, pack in enumerate(packs)
    ]


def _content(whole: Inventory) -> bytes:
    about = [whole.ledger, str(whole.epoch), str(whole.roster_serial), *whole.roster_keys, *whole.faults]
    return "\n".join([*about, *(one.digest() for one in whole.actions)]).encode()


def _packs(actions: Sequence[Action]) -> list[list[Action]]:
    packs: list[list[Action]] = [[]]
    size = 0
    for action in actions:
        length = len(canonical(action.document())) + 1
        if packs[-1] and size + length > bounds.INVENTORY_PART_BYTES:
            packs.append([])
            size = 0
        packs[-1].append(action)
        size += length
    return packs
