"""The books balance after any history, and they do not when one rule is broken.

WATCHBILL_SEEDS says how many histories of each weather are played (30); a failure names its seed, and
`world.World(SEED, MODE).play()` plays it again.
"""

import os

SEEDS = int(os.environ.get("WATCHBILL_SEEDS", "30"))
MUTANT_SEEDS = 400
"""Histories in which a broken rule has to show."""


def test_the_books_balance_whatever_happens(world, mode):
    for seed in range(SEEDS):
        try:
            world.World(seed, mode).play()
        except AssertionError as exc:
            raise AssertionError(f"seed {seed}, {mode}: {exc}") from exc


def test_a_broken_rule_shows(world, mutation):
    weather = world.MUTATIONS[mutation]
    for seed in range(MUTANT_SEEDS):
        try:
            world.World(seed, weather, [mutation]).play()
        except AssertionError:
            # The same history balances when the rule is kept: it is the mutation that was caught.
            world.World(seed, weather).play()
            return
    raise AssertionError(f"{mutation!r} was not noticed in {MUTANT_SEEDS} histories")
