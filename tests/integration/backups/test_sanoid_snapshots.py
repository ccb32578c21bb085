"""What the adapter says of ZFS snapshots: the real sanoid judges its policy, over a `zfs` and a `zpool` that say what a
test wants, since ZFS is no part of Debian."""

import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from watchbill.backups.definition import Definition, ProofAges
from watchbill.backups.record import Level, Outcome
from watchbill_agent.backups.adapter import Check, Job, Observation, Reason, Verification
from watchbill_agent.backups.adapters import sanoid
from watchbill_agent.backups.adapters.sanoid import Options, Sanoid
from watchbill_agent.backups.command import HostCommands

pytestmark = pytest.mark.real("sanoid")

DEFAULTS = Path("/usr/share/sanoid/sanoid.defaults.conf")
HOUR_S = 3600
ZFS = """#!{python}
import sys
snapshots = [line.split() for line in open({snapshots!r})]
if sys.argv[1] == "get":
    for name, creation in snapshots:
        print(f"{{name}}\\tcreation\\t{{creation}}\\t-")
elif sys.argv[1] == "list" and "snapshot" in sys.argv:
    wanted = sys.argv[-1]
    if wanted not in open({datasets!r}).read().split():
        sys.exit(f"cannot open '{{wanted}}': dataset does not exist")
    for name, creation in snapshots:
        dataset = name.partition("@")[0]
        if dataset == wanted or ("-r" in sys.argv and dataset.startswith(wanted + "/")):
            print(f"{{name}}\\t{{creation}}")
"""
HEALTHY = """  pool: tank
 state: ONLINE
  scan: scrub repaired 0B in 00:12:34 with 0 errors on Sun Nov  8 00:36:35 2026
config:

\tNAME        STATE     READ WRITE CKSUM
\ttank        ONLINE       0     0     0

errors: No known data errors
"""
SCRUBBED_MS = 1_794_098_195_000
SOON_MS = SCRUBBED_MS + 86_400_000
POLICY = """[tank/data]
use_template = kept
[template_kept]
hourly = 24
daily = 7
monthly = 0
yearly = 0
weekly = 0
frequently = 0
autosnap = yes
monitor = yes
hourly_warn = 90m
hourly_crit = 6h
daily_warn = 28h
daily_crit = 32h
"""


@dataclass
class Pool:
    """A host with these snapshots, as seconds of age by dataset and name."""

    place: Path
    snapshots: dict[str, int] = field(default_factory=dict)
    datasets: tuple[str, ...] = ("tank/data",)
    status: str = HEALTHY

    def fresh(self) -> "Pool":
        self.snapshots = {
            "tank/data@autosnap_1_hourly": HOUR_S // 2,
            "tank/data@autosnap_1_daily": 5 * HOUR_S,
        }
        return self

    def _write(self) -> None:
        now_s = int(time.time())
        lines = [f"{name} {now_s - age_s}\n" for name, age_s in self.snapshots.items()]
        (self.place / "snapshots").write_text("".join(lines))
        (self.place / "datasets").write_text(" ".join(self.datasets))
        (self.place / "status").write_text(self.status)
        (self.place / "etc").mkdir(exist_ok=True)
        (self.place / "etc" / "sanoid.conf").write_text(POLICY)
        (self.place / "etc" / "sanoid.defaults.conf").write_bytes(DEFAULTS.read_bytes())
        names = {"snapshots": str(self.place / "snapshots"), "datasets": str(self.place / "datasets")}
        self._program("zfs", ZFS.format(python=sys.executable, **names))
        self._program("zpool", f"#!/bin/sh\ncat {self.place}/status\n")

    def _program(self, name: str, text: str) -> None:
        (self.place / name).write_text(text)
        (self.place / name).chmod(0o755)

    def adapter(self, *, data_s: float = 0.0, **given: object) -> Sanoid:
        self._write()
        definition = Definition(name="tank", tool="sanoid", verify=ProofAges(data_s=data_s))
        scratch = self.place / "scratch"
        scratch.mkdir(exist_ok=True)
        fixed: dict[str, object] = {"datasets": ["tank/data"], "config_dir": self.place / "etc"}
        job = Job(name="tank", definition=definition, scratch=scratch)
        return Sanoid(Options(**fixed | given), job, HostCommands(scratch, 30.0))  # type: ignore[arg-type]

    def observe(self, **given: object) -> Observation:
        (self.place / "scratch" / "sanoid" / "snapshots.txt").unlink(missing_ok=True)
        return self.adapter(**given).observe(int(time.time() * 1000))

    def verify(self, level: Level, now_ms: int = SOON_MS, data_s: float = 0.0) -> Verification:
        return self.adapter(data_s=data_s).verify(Check(level=level), now_ms)


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pool:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}:/usr/sbin:/sbin")
    return Pool(tmp_path).fresh()


def test_fresh_snapshots_are_ok_and_the_newest_is_the_point(pool: Pool) -> None:
    seen = pool.observe()
    assert (seen.outcome, seen.reason, seen.errors) == (Outcome.OK, "", ())
    assert {snapshot.id for snapshot in seen.snapshots} == set(pool.snapshots)
    assert abs(time.time() - seen.point_ms / 1000 - HOUR_S / 2) < 60
    assert (pool.place / "scratch" / "sanoid" / "snapshots.txt").exists(), "its cache, and not root's"


def test_a_snapshot_from_the_future_that_sanoid_calls_fresh_is_none(pool: Pool) -> None:
    pool.snapshots = {
        "tank/data@autosnap_1_hourly": -29 * 86_400,
        "tank/data@autosnap_1_daily": -29 * 86_400,
        "tank/data@autosnap_0_hourly": 48 * HOUR_S,
    }
    seen = pool.observe()
    assert (seen.outcome, seen.reason) == (Outcome.PARTIAL, sanoid.SNAPSHOT_IN_FUTURE)
    assert len(seen.errors) == 1, "sanoid itself has nothing to say"
    assert abs(time.time() - seen.point_ms / 1000 - 48 * HOUR_S) < 60
    pool.snapshots.popitem()
    seen = pool.observe()
    assert (seen.outcome, seen.reason, seen.point_ms) == (Outcome.UNKNOWN, sanoid.SNAPSHOT_IN_FUTURE, 0)


@pytest.mark.parametrize(
    ("age_s", "reason"), [(2 * HOUR_S, sanoid.SANOID_WARNING), (48 * HOUR_S, sanoid.SANOID_CRITICAL)]
)
def test_what_sanoid_says_of_its_policy_is_read(pool: Pool, age_s: int, reason: str) -> None:
    pool.snapshots["tank/data@autosnap_1_hourly"] = age_s
    seen = pool.observe()
    assert (seen.outcome, seen.reason) == (Outcome.PARTIAL, reason)
    assert "hourly" in seen.errors[0]
    del pool.snapshots["tank/data@autosnap_1_hourly"]
    seen = pool.observe()
    assert (seen.outcome, seen.reason) == (Outcome.PARTIAL, sanoid.SANOID_CRITICAL)
    assert seen.errors == ("tank/data: no hourly snapshots at all",)


def test_kinds_that_the_policy_keeps_none_of_are_not_missed(pool: Pool) -> None:
    """There is no monthly one, and sanoid leaves out what is kept 0 times."""
    assert pool.observe().outcome is Outcome.OK


def test_a_dataset_that_is_gone_or_empty_is_a_failure(pool: Pool) -> None:
    seen = pool.observe(datasets=["tank/data", "tank/gone"])
    assert (seen.outcome, seen.reason, seen.point_ms) == (Outcome.FAILED, sanoid.DATASET_MISSING, 0)
    pool.datasets = ("tank/data", "tank/new")
    seen = pool.observe(datasets=["tank/data", "tank/new"])
    assert (seen.outcome, seen.reason) == (Outcome.FAILED, Reason.NO_SNAPSHOTS)
    seen = pool.observe(prefix="syncoid_")
    assert (seen.outcome, seen.reason) == (Outcome.FAILED, Reason.NO_SNAPSHOTS)


def test_the_point_is_what_all_datasets_have(pool: Pool) -> None:
    pool.snapshots["tank/data/mail@autosnap_1_hourly"] = 9 * HOUR_S
    seen = pool.observe(recursive=True)
    assert abs(time.time() - seen.point_ms / 1000 - 9 * HOUR_S) < 60
    assert len(seen.snapshots) == 3


def test_without_sanoid_its_policy_is_not_known_and_the_snapshots_still_are(pool: Pool) -> None:
    seen = pool.observe(sanoid="no-such-sanoid")
    assert (seen.outcome, seen.reason, len(seen.snapshots)) == (Outcome.PARTIAL, Reason.TOOL_MISSING, 2)
    assert pool.observe(sanoid="no-such-sanoid", monitor=False).outcome is Outcome.OK
    seen = pool.observe(config_dir=pool.place / "nowhere")
    assert seen.outcome is Outcome.PARTIAL
    assert "sanoid does not say" in seen.errors[0]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("Unable to open /dev/zfs: Permission denied.", Reason.NEEDS_RUNNER),
        ("Permission denied the ZFS utilities must be run as root.", Reason.NEEDS_RUNNER),
        ("The ZFS modules are not loaded.", Reason.REPOSITORY_UNREACHABLE),
        ("internal error: failed to initialize ZFS library", Reason.REPOSITORY_UNREACHABLE),
        ("internal error: out of memory", Reason.TOOL_FAILED),
    ],
)
def test_a_zfs_that_does_not_answer_is_unknown(pool: Pool, said: str, reason: str) -> None:
    pool._write()
    (pool.place / "broken").write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    (pool.place / "broken").chmod(0o755)
    seen = pool.observe(zfs=str(pool.place / "broken"))
    assert (seen.outcome, seen.reason) == (Outcome.UNKNOWN, reason)


def test_a_healthy_pool_with_a_scrub_is_proved_as_of_the_scrub(pool: Pool) -> None:
    assert pool.verify(Level.STRUCTURE).outcome is Outcome.OK
    found = pool.verify(Level.DATA)
    assert (found.outcome, found.proved_ms) == (Outcome.OK, SCRUBBED_MS)
    assert pool.verify(Level.STRUCTURE).proved_ms == 0


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (
            "scrub repaired 0B in 00:12:34 with 0 errors on Sun Nov  8 00:36:35 2026",
            "none requested",
            sanoid.SCRUB_NEVER,
        ),
        (
            "scrub repaired 0B in 00:12:34 with 0 errors on Sun Nov  8 00:36:35 2026",
            "scrub in progress since Sun Nov  8 00:24:01 2026",
            sanoid.SCRUB_RUNNING,
        ),
        ("scrub repaired 0B", "resilvered 3G", sanoid.SCRUB_NEVER),
        ("Nov  8 00:36:35 2026", "Feb 31 00:36:35 2026", sanoid.SCRUB_NEVER),
        ("Nov  8 00:36:35 2026", "Jan  8 00:36:35 2026", sanoid.SCRUB_OLD),
        (" state: ONLINE", "no state", Reason.OUTPUT_UNREADABLE),
    ],
)
def test_without_a_scrub_that_counts_nothing_is_proved(
    pool: Pool, before: str, after: str, reason: str
) -> None:
    assert before in HEALTHY
    pool.status = HEALTHY.replace(before, after)
    found = pool.verify(Level.DATA)
    assert (found.outcome, found.proof, found.reason) == (Outcome.UNKNOWN, None, reason)


def test_how_old_a_scrub_may_be_is_the_jobs_to_say(pool: Pool) -> None:
    assert pool.verify(Level.DATA, data_s=86_400 / 2).reason == sanoid.SCRUB_OLD
    assert pool.verify(Level.DATA, data_s=86_400 * 2).outcome is Outcome.OK


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("state: ONLINE", "state: DEGRADED"),
        ("with 0 errors", "with 3 errors"),
        ("errors: No known data errors", "errors: 2 data errors, use '-v' for a list"),
    ],
)
def test_a_pool_that_is_not_healthy_proves_the_contrary(pool: Pool, before: str, after: str) -> None:
    pool.status = HEALTHY.replace(before, after)
    found = pool.verify(Level.DATA)
    assert (found.outcome, found.reason) == (Outcome.FAILED, sanoid.POOL_UNHEALTHY)
    assert found.proof is not None
    assert found.proof.bad == 1


def test_a_run_that_could_not_take_a_snapshot_is_no_ok(pool: Pool) -> None:
    """Sanoid ends with 0 then."""
    said = b"CRITICAL ERROR: zfs snapshot tank/data@autosnap_1_hourly failed, 256 at /usr/sbin/sanoid line 617.\n"
    facts = pool.adapter().read_run(0, b"", said)
    assert facts.outcome is Outcome.PARTIAL
    assert facts.errors
    assert pool.adapter().read_run(0, b"INFO: taking snapshots...\n", b"").outcome is Outcome.OK


@pytest.mark.parametrize(
    "text",
    [
        "tank\t1",
        "tank@a",
        "tank@a\t-1",
        "tank@a\tyesterday",
        "@a\t1",
        "tank@\t1",
        f"tank@{'a' * 300}\t1",
        f"tank@a\t{10**30}",
    ],
)
def test_a_line_that_zfs_does_not_print_is_no_snapshot(text: str) -> None:
    with pytest.raises(ValueError, match="zfs list"):
        sanoid.read_snapshots(text)
