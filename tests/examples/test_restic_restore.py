"""The shipped restore with real restic: chosen, brought back, proved by the manifest, removed by its own run alone."""

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parents[2] / "docs" / "examples" / "actions" / "bin" / "restic.py"
AGENT = Path(sys.executable).parent / "watchbill-agent"
COMMAND_S = 60

pytestmark = pytest.mark.skipif(shutil.which("restic") is None, reason="restic is not installed")


class Spare:
    """A spare host, and a repository with a backup of a source and its manifest."""

    def __init__(self, root: Path) -> None:
        self.root, self.source, self.target = root, root / "source", root / "restore" / "files"
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(root),
            "RESTIC_REPOSITORY": str(root / "repo"),
            "RESTIC_PASSWORD": "x",
            "RESTIC_CACHE_DIR": str(root / "cache"),
        }
        home = root / "home"
        (home / "etc" / "backups.d").mkdir(parents=True)
        (home / "var" / "agent").mkdir(parents=True)
        (home / "etc" / "backups.d" / "files.toml").write_text('[[backup]]\nname = "files"\ntool = "wrap"\n')
        self.source.mkdir()
        for number in range(5):
            (self.source / f"f{number}").write_text(f"content {number}\n" * 50)
            os.utime(self.source / f"f{number}", (1_700_000_000, 1_700_000_000))
        self.config = root / "restic.toml"
        check = json.dumps([str(AGENT), "backup", "manifest", "check", "--home", str(home)])
        self.config.write_text(f'restic = "{shutil.which("restic")}"\nmanifest_check = {check}\n')
        with open(self.config, "a") as file:
            file.write(f'manifests = "{home}/var/agent/backups/manifests"\n')
        # A file of which nobody can tell whether the run saw it is in no sample: the run began after they were written.
        began = (datetime.now(UTC) + timedelta(seconds=4)).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.do("restic", "init")
        self.do("restic", "backup", "--tag", "job=files", str(self.source))
        self.do(
            str(AGENT),
            "backup",
            "manifest",
            "make",
            "files",
            str(self.source),
            "--home",
            str(home),
            "--started",
            began,
        )

    def do(self, *argv: str, run: str = "") -> "subprocess.CompletedProcess[str]":
        env = self.env | ({"WATCHBILL_RUN": run} if run else {})
        done = subprocess.run(argv, capture_output=True, text=True, timeout=COMMAND_S, env=env, check=False)
        assert run or done.returncode == 0, done
        return done

    def call(self, *words: str, run: str = "r1") -> tuple[int, Any, str]:
        done = self.do(sys.executable, "-I", str(PROGRAM), str(self.config), *words, run=run)
        return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


def test_a_backup_is_restored_and_proved_and_only_its_run_removes_it(tmp_path: Path) -> None:
    spare = Spare(tmp_path)
    code, picked, said = spare.call("pick", "files", "now")
    assert code == 0, said
    assert 0 <= picked["age"] < 3600
    assert picked["bytes"] == 5 * 50 * len("content 0\n")
    assert spare.call("pick", "files", "2001-01-01T00:00:00Z")[0] == 1, "none is that old"
    assert spare.call("free", str(spare.target))[1]["at"] == str(tmp_path)
    code, _, said = spare.call("restore", picked["id"], str(spare.target))
    assert code == 0, said
    code, proof, said = spare.call("verify", "files", picked["id"], str(spare.target))
    assert (code, proof and proof["ok"]) == (0, True), (proof, said)
    assert (proof["checked"], proof["bad"], proof["missing"]) == (5, 0, 0)
    assert spare.call("restore", picked["id"], str(spare.target))[0] == 0, "a retry of the same run"

    back = spare.target / str(spare.source).lstrip("/")
    (back / "f1").write_text("other\n")
    (back / "f2").unlink()
    proof = spare.call("verify", "files", picked["id"], str(spare.target))[1]
    assert (proof["ok"], proof["bad"], proof["missing"]) == (False, 1, 1)

    for word in (("restore", picked["id"], str(spare.target)), ("remove", str(spare.target))):
        code, _, said = spare.call(*word, run="r2")
        assert (code, "not restored by this run" in said) == (1, True), said
    assert spare.call("remove", str(spare.target))[1] == {"removed": True}
    assert not spare.target.exists()
    assert spare.call("remove", str(spare.target))[1] == {"removed": False}
    spare.target.mkdir(parents=True)
    code, _, said = spare.call("restore", picked["id"], str(spare.target))
    assert (code, "has to be new" in said) == (1, True), said
