#!/usr/bin/python3 -I
"""pg.py CONFIG status|role|reach PEER|promote|write-probe|start|rejoin TO|rebuild: one cluster, for actions.d.

Prints one JSON document. 0: done, or looked at; 1: not, and why on standard error; 2: it is called or set up wrongly.
What cannot be known is null in the document, never a guess: a runbook's check is satisfied by neither.
"""

import json
import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any, NoReturn

ASK_S = 15
"""For a question to a server: it may hang on a lock or a dead disk."""
PROMOTE_S = 60
START_S = 60
COPY_S = 12 * 3600
REACH_S = 5
OTHER_CLUSTER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

STATUS = """
SELECT json_build_object(
  'role', CASE WHEN pg_is_in_recovery() THEN 'standby' ELSE 'primary' END,
  'unreplayed', pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::bigint,
  'rewindable', current_setting('wal_log_hints')::bool OR current_setting('data_checksums')::bool,
  'timeline', (SELECT timeline_id FROM pg_control_checkpoint()),
  'streaming', (SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming') > 0)
"""
# A transactional message takes a transaction number and is flushed at commit: it can be written where a row can.
WRITE = "SELECT pg_logical_emit_message(true, 'watchbill', 'probe')"


def fail(message: str, code: int = 1) -> NoReturn:
    """End here."""
    print(message, file=sys.stderr)
    raise SystemExit(code)


def run(argv: list[str], seconds: float) -> "subprocess.CompletedProcess[str]":
    """A program to its end, however it ends."""
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(argv, 124, "", f"{argv[0]}: no answer within {seconds:g} s")
    except OSError as exc:
        return subprocess.CompletedProcess(argv, 127, "", f"{argv[0]}: {exc.strerror}")


class Cluster:
    """The cluster of this host, as the configuration says."""

    def __init__(self, config: dict[str, Any]) -> None:
        found = config["cluster"]
        self.name = str(found["name"])
        self.data, self.bin = Path(found["data"]), Path(found["bin"])
        self.socket, self.port = str(found["socket"]), int(found.get("port", 5432))
        self.launch = [str(one) for one in found["start"]]
        self.rebuild_from = str(found.get("rebuild_from", ""))
        self.peers = {str(name): str(where) for name, where in config.get("peers", {}).items()}
        self.mark = Path(config["fence"]["marks"]) / self.name

    def program(self, name: str) -> str:
        """One of PostgreSQL's."""
        return str(self.bin / name)

    def conninfo(self, peer: str) -> str:
        """How a peer is reached. Its name comes from the command and is no part of a connection string unseen."""
        if not OTHER_CLUSTER.fullmatch(peer):
            fail(f"{peer!a}: wanted the name of a host", 2)
        return self.peers.get(peer, f"host={peer} port=5432")

    def sql(self, statement: str) -> "subprocess.CompletedProcess[str]":
        """One statement, here."""
        where = ["-h", self.socket, "-p", str(self.port), "-d", "postgres"]
        fixed = ["-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1"]
        return run([self.program("psql"), *fixed, *where, "-c", statement], ASK_S)

    def status(self) -> dict[str, Any]:
        """What it is; "down" only when nothing listens, for a server that hangs is not known to be down."""
        done = self.sql(STATUS)
        if done.returncode == 0:
            found: dict[str, Any] = json.loads(done.stdout)
            return found
        ready = self.ready()
        if ready.returncode == 2:
            return {"role": "down", "fenced": self.mark.exists()}
        fail(f"it answers no question: {done.stderr.strip()}")

    def ready(self) -> "subprocess.CompletedProcess[str]":
        """Whether it takes connections (0), only turns them away (1), or nothing listens (2). Anybody may ask."""
        where = ["-h", self.socket, "-p", str(self.port), "-t", str(REACH_S)]
        return run([self.program("pg_isready"), *where], ASK_S)

    def stopped(self) -> bool:
        """Whether no server is at work in the data directory. One that was killed is there until init has noticed."""
        until_s = time.monotonic() + ASK_S
        while time.monotonic() < until_s:
            if run([self.program("pg_ctl"), "-D", str(self.data), "status"], ASK_S).returncode == 3:
                return True
            time.sleep(0.2)
        return False


def role(cluster: Cluster) -> dict[str, Any]:
    """For the probe of promote."""
    return {"role": cluster.status()["role"]}


def reach(cluster: Cluster, peer: str) -> dict[str, Any]:
    """Whether a peer's server answers. One that only turns us away is up: it may be at work for others."""
    argv = [cluster.program("pg_isready"), "-d", cluster.conninfo(peer), "-t", str(REACH_S)]
    done = run(argv, ASK_S)
    if done.returncode not in (0, 1, 2):
        fail(f"nothing can be said of {peer}: {done.stdout.strip()} {done.stderr.strip()}")
    return {"peer": peer, "up": done.returncode in (0, 1), "said": done.stdout.strip()}


def promote(cluster: Cluster) -> dict[str, Any]:
    """Once. A fenced cluster is nobody's primary."""
    if cluster.mark.exists():
        fail(f"{cluster.name} is {marked(cluster)}")
    done = cluster.sql(f"SELECT pg_promote(true, {PROMOTE_S})")
    if done.returncode or done.stdout.strip() != "t":
        fail(f"it was not promoted: {done.stdout.strip()} {done.stderr.strip()}")
    return {"promoted": True, "role": cluster.status()["role"]}


def write_probe(cluster: Cluster) -> dict[str, Any]:
    """Fails as long as nothing can be written, so that the step tries again."""
    done = cluster.sql(WRITE)
    if done.returncode:
        fail(f"nothing can be written: {done.stderr.strip()}")
    return {"writable": True, "at": done.stdout.strip()}


def start(cluster: Cluster) -> dict[str, Any]:
    """By who looks after services here: what an action starts by itself ends with it."""
    if cluster.mark.exists():
        fail(f"{cluster.name} is {marked(cluster)}: rejoin it, then pg.unfence")
    done = run(cluster.launch, START_S)
    if done.returncode:
        fail(f"{cluster.launch[0]}: {done.stderr.strip()}")
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s:
        if cluster.ready().returncode == 0:
            return {"started": True}
        time.sleep(0.2)
    fail(f"it was started and answers nothing within {START_S} s")


def rejoin(cluster: Cluster, to: str) -> dict[str, Any]:
    """pg_rewind; it brings a cluster that was killed to a clean end first. Nothing is started."""
    if not cluster.mark.exists():
        fail(f"{cluster.name} is not fenced: only what was cut off is taken back")
    if not cluster.stopped():
        fail("a server is at work in the data directory")
    source = f"{cluster.conninfo(to)} dbname=postgres"
    argv = [cluster.program("pg_rewind"), "-D", str(cluster.data), f"--source-server={source}", "-R"]
    done = run(argv, COPY_S)
    if done.returncode:
        fail(f"pg_rewind: {done.stderr.strip()}")
    if not (cluster.data / "standby.signal").exists():
        fail("pg_rewind left no standby.signal: it would come up as a primary")
    return {"rejoined": to, "said": done.stderr.strip()[-500:]}


def rebuild(cluster: Cluster) -> dict[str, Any]:
    """A fresh copy, put in place when it is whole. What was there stays beside it, for a person to remove."""
    if not cluster.rebuild_from:
        fail("the configuration has no cluster.rebuild_from", 2)
    if not cluster.stopped():
        fail("a server is at work in the data directory")
    fresh = cluster.data.with_name(f"{cluster.data.name}.copy-{os.getpid()}")
    source = cluster.conninfo(cluster.rebuild_from)
    argv = [
        cluster.program("pg_basebackup"),
        "-D",
        str(fresh),
        "-d",
        source,
        "-R",
        "-X",
        "stream",
        "-c",
        "fast",
    ]
    done = run(argv, COPY_S)
    if done.returncode:
        fail(f"pg_basebackup: {done.stderr.strip()}")
    kept = cluster.data.with_name(f"{cluster.data.name}.before-{int(time.time())}")
    cluster.data.rename(kept)
    fresh.rename(cluster.data)
    return {"rebuilt_from": cluster.rebuild_from, "kept": str(kept)}


def marked(cluster: Cluster) -> str:
    """What the mark says."""
    try:
        return f"fenced in run {json.loads(cluster.mark.read_bytes())['run']}"
    except (OSError, ValueError, KeyError):
        return "fenced"


WORDS: dict[str, Any] = {
    "status": Cluster.status,
    "role": role,
    "reach": reach,
    "promote": promote,
    "write-probe": write_probe,
    "start": start,
    "rejoin": rejoin,
    "rebuild": rebuild,
}


def main(arguments: list[str]) -> int:
    """See the module."""
    wanted = 3 if arguments[1:2] in (["reach"], ["rejoin"]) else 2
    if len(arguments) != wanted or arguments[1] not in WORDS:
        fail(__doc__ or "", 2)
    try:
        with open(arguments[0], "rb") as file:
            cluster = Cluster(tomllib.load(file))
    except (OSError, ValueError, KeyError) as exc:
        fail(f"{arguments[0]}: {exc}", 2)
    print(json.dumps(WORDS[arguments[1]](cluster, *arguments[2:])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
