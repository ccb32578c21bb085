"""Checks ask whether an application is well: does it answer, how fast, with what, and until when its certificate holds.

    checks.d -> child (probes, and workers for what may block) -> service -> batch

A kind of check is one file in `kinds/`, described in `check`. Only the child and its workers import kinds: the daemon
knows names, verdicts and numbers, and a host without checks imports `present` and no more.
"""
