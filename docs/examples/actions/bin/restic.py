#!/usr/bin/python3 -I
"""restic.py CONFIG pick JOB BEFORE | free PATH | restore SNAPSHOT TARGET | verify JOB SNAPSHOT TARGET | remove TARGET

A restic backup onto a spare host, for actions.d: chosen, restored, proved against the manifest that was made beside the
backup, and removed again. A target has to be new: beside it stands TARGET.restored, which says in which run it was
made, and only that run restores into it again or removes it. So neither a retry nor an undo can hit what is in use.

Repository and password come as secrets in the environment. Prints one JSON document; 1: not done or not so, and why.
"""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

ASK_S = 300
RESTORE_S = 24 * 3600
VERIFY_S = 3600
BEGAN_MS = 60_000
"""A snapshot may seem this much older than the manifest's run: two clocks were read."""


def fail(message: str, code: int = 1) -> NoReturn:
    """End here."""
    print(message, file=sys.stderr)
    raise SystemExit(code)


def run(argv: list[str], seconds: float) -> str:
    """What a program printed that ended well."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        fail(f"{argv[0]}: {exc}")
    if done.returncode:
        fail(f"{argv[0]}: code {done.returncode}: {(done.stderr or done.stdout).strip()[-800:]}")
    return done.stdout


def when(text: str) -> datetime:
    """A moment; restic writes nine digits behind the second, Python reads six."""
    head, dot, rest = text.partition(".")
    digits = len(rest) - len(rest.lstrip("0123456789"))
    found = datetime.fromisoformat(f"{head}{dot}{rest[: min(digits, 6)]}{rest[digits:]}")
    if found.tzinfo is None:
        fail(f"{text!a}: wanted a time with its zone", 2)
    return found


class Restores:
    """See the module."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.restic = str(config.get("restic", "/usr/bin/restic"))
        self.check = [str(one) for one in config["manifest_check"]]
        self.manifests = Path(config["manifests"])

    def ask(self, *arguments: str) -> Any:
        """restic without a lock: who only looks keeps nobody out."""
        return json.loads(run([self.restic, *arguments, "--json", "--no-lock"], ASK_S))

    def pick(self, job: str, before: str) -> dict[str, Any]:
        """The newest of a job, by its tag, that is no younger than a moment."""
        now = datetime.now(UTC)
        limit = now if before == "now" else when(before)
        found = [
            one for one in self.ask("snapshots", "--tag", f"job={job}") or [] if when(one["time"]) <= limit
        ]
        if not found:
            fail(f"no snapshot of {job} before {before}")
        newest = max(found, key=lambda one: when(one["time"]))
        size = self.ask("stats", "--mode", "restore-size", newest["id"])["total_size"]
        age = (now - when(newest["time"])).total_seconds()
        return {"id": newest["id"], "time": newest["time"], "age": max(0.0, age), "bytes": size}

    def free(self, path: str) -> dict[str, Any]:
        """Where a target will lie: of the directory above it that is there."""
        place = Path(path)
        while not place.exists():
            place = place.parent
        found = os.statvfs(place)
        return {"free": found.f_bavail * found.f_frsize, "at": str(place)}

    def restore(self, snapshot: str, target: str) -> dict[str, Any]:
        """All of a snapshot, every byte of it read back by restic."""
        place, mark = Path(target), mark_of(target)
        if mark.exists():
            ours(target)
        elif place.exists():
            fail(f"{place} is there already: a target has to be new")
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            mark.write_text(json.dumps({"run": os.environ.get("WATCHBILL_RUN", ""), "snapshot": snapshot}))
        run([self.restic, "restore", snapshot, "--target", target, "--verify"], RESTORE_S)
        return {"restored": snapshot, "target": target}

    def verify(self, job: str, snapshot: str, target: str) -> dict[str, Any]:
        """Against the manifest of the very run that made the snapshot; without one nothing is proved."""
        at_ms = when(self.ask("snapshots", snapshot)[0]["time"]).timestamp() * 1000
        for path in sorted((self.manifests / job).glob("*.json"), reverse=True):
            made = json.loads(path.read_bytes())
            if made["started_ms"] - BEGAN_MS <= at_ms <= made["made_ms"]:
                break
        else:
            fail(f"{self.manifests / job}: no manifest of the run that made {snapshot}")
        argv = [*self.check, job, "--at", target, "--file", str(path), "--json"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=VERIFY_S, check=False)
        if not done.stdout.startswith("{"):
            fail(f"{argv[0]}: code {done.returncode}: {done.stderr.strip()[-800:]}")
        said = json.loads(done.stdout)
        return {
            "ok": said["ok"],
            "checked": said["compared"],
            "bad": said["bad"],
            "missing": said["missing"],
            "errors": said["errors"],
        }

    def remove(self, target: str) -> dict[str, Any]:
        """What this run has restored, and nothing else."""
        if not mark_of(target).exists() and not Path(target).exists():
            return {"removed": False}
        ours(target)
        if Path(target).exists():
            shutil.rmtree(target)
        mark_of(target).unlink()
        return {"removed": True}


def mark_of(target: str) -> Path:
    """Beside a target, not in it: what is proved is what was restored."""
    return Path(f"{target}.restored")


def ours(target: str) -> None:
    """Ends here unless this run made the target."""
    try:
        found = json.loads(mark_of(target).read_bytes())["run"]
    except (OSError, ValueError, KeyError):
        found = ""
    if not found or found != os.environ.get("WATCHBILL_RUN", ""):
        fail(f"{target} was not restored by this run, but by {found or 'nobody knows whom'}")


WORDS = {
    "pick": (Restores.pick, 2),
    "free": (Restores.free, 1),
    "restore": (Restores.restore, 2),
    "verify": (Restores.verify, 3),
    "remove": (Restores.remove, 1),
}


def main(arguments: list[str]) -> int:
    """See the module."""
    word, count = WORDS.get(arguments[1], (None, 0)) if len(arguments) > 1 else (None, 0)
    if word is None or len(arguments) != 2 + count:
        fail(__doc__ or "", 2)
    try:
        with open(arguments[0], "rb") as file:
            restores = Restores(tomllib.load(file))
        print(json.dumps(word(restores, *arguments[2:])))
    except (OSError, ValueError, KeyError) as exc:
        fail(f"{exc!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
