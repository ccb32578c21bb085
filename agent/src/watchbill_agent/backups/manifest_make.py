"""Makes one manifest, in a process of its own that may be killed for being late.

A question as JSON on standard input, the manifest on standard output.
"""

import json
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from watchbill.errors import Permanent
from watchbill_agent.backups.manifest import BYTES_MAX, Manifest, decode
from watchbill_agent.backups.tree import Reader, Walk

WALK_S: Final = 30.0
READ_S: Final = 30.0
SLACK_S: Final = 15.0
"""For starting, and for one file that is slow."""
MAKE_S_MAX: Final = WALK_S + READ_S + SLACK_S
MODULE: Final = "watchbill_agent.backups.manifest_make"


def make(job: str, roots: Sequence[str], excluded: Sequence[str], started_ms: int) -> Manifest:
    """Of what is there now."""
    seed = os.urandom(8).hex()
    walk = Walk(roots, excluded, seed, started_ms, time.monotonic() + WALK_S)
    walk.run()
    reader, sample = Reader(time.monotonic() + READ_S), []
    files = walk.sample
    random.Random(seed).shuffle(files)  # noqa: S311 - What time is too short for must not be what comes last by name.
    for file in files:
        if reader.spent:
            break
        if (sampled := reader.hash(file, seed)) is not None:
            sample.append(sampled)
    return Manifest(
        job=job,
        started_ms=started_ms,
        made_ms=time.time_ns() // 1_000_000,
        seed=seed,
        roots=tuple(roots),
        excluded=tuple(excluded),
        counts=walk.counts,
        sample=tuple(sorted(sample, key=lambda one: one.path)),
    )


def made(job: str, roots: Sequence[str], excluded: Sequence[str], started_ms: int) -> tuple[Manifest, bytes]:
    """The same in a process of its own, which gives way to everything else. Raises Permanent, Unreadable."""
    from watchbill_agent.backups.command import HostCommands

    question = {"job": job, "roots": list(roots), "excluded": list(excluded), "started_ms": started_ms}
    done = HostCommands(Path("/"), MAKE_S_MAX).run(
        (sys.executable, "-m", MODULE),
        input=json.dumps(question).encode(),
        stdout_bytes_max=BYTES_MAX,
    )
    if not done.ok:
        why = (
            f"it took more than {MAKE_S_MAX:.0f} s"
            if done.timed_out
            else done.stderr.decode("utf-8", "replace")[-300:]
        )
        raise Permanent(f"no manifest of {', '.join(roots)[:200]}: {why.strip() or 'its process failed'}")
    return decode(done.stdout), done.stdout


def main() -> int:
    """Answer one question."""
    question = json.load(sys.stdin)
    manifest = make(question["job"], question["roots"], question["excluded"], question["started_ms"])
    sys.stdout.buffer.write(manifest.encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
