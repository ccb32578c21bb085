"""The collector's own disk is full: the page about it goes out, people work on, and the end is told."""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk"),
]

DISK_MIB = 160
OURS = "/api/watchbill/v1"
PROGRAM = """#!/bin/sh
cat >"{directory}/$(date +%s%N).new" && mv "{directory}"/*.new "{directory}/kept/$(date +%s%N)"
"""
CONFIG = """
[rules]
interval = "3s"
[[channel]]
name = "hook"
kind = "exec"
argv = ["{program}"]
[[route]]
match = 'alertname="CollectorTakesNothing"'
channel = "hook"
wait = "0s"
interval = "1s"
"""


@pytest.fixture
def small_disk(house: Any) -> Iterator[Path]:
    place: Path = house.root / "c" / "var"
    place.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=0700", "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no filesystem can be mounted here: {done.stderr.decode().strip()}")
    yield place
    for process in reversed(house.processes):
        if process.running:
            process.kill()
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> Path:
    """Leave not one free block."""
    filler = place / "somebody-elses-file"
    with open(filler, "wb", buffering=0) as file:
        for piece in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(piece)):
                    pass
    return filler


def test_the_page_about_a_full_disk_goes_out(house: Any, small_disk: Path, until: Any) -> None:
    house._template = None  # Its state is to be made on that disk.
    kept = house.root / "told" / "kept"
    kept.mkdir(parents=True)
    program = house.root / "tell"
    program.write_text(PROGRAM.format(directory=kept.parent))
    program.chmod(0o755)
    collector = house.collector(CONFIG.format(program=program))
    house.agent(collector, "web1")
    until(
        lambda: collector.value("watchbill_collector_history_writable") == 1, "its own metrics are there", 60
    )
    filler = fill(small_disk)
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "more").write_bytes(bytes(8192))

    def told() -> list[tuple[str, str]]:
        notices = [json.loads(file.read_bytes()) for file in sorted(kept.iterdir())]
        return [(one["status"], one["alerts"][0]["labels"]["alertname"]) for one in notices]

    until(lambda: told() == [("firing", "CollectorTakesNothing")], "the page about it", 90)

    def firing() -> set[str]:
        return {one["name"] for one in collector.get("/alerts?state=firing")["alerts"]}

    assert "HostSilent" not in firing(), "the hosts are there, only their samples are not taken"
    # People work on: the audit, silences and users have room of their own.
    for number in range(20):
        order = {"matchers": f'alertname="X{number}"', "duration_s": 60, "reason": "on a full disk"}
        made = collector.ask("POST", f"{OURS}/silences", json.dumps(order).encode())
        assert made.status == 201, made
    body = {"name": "ann", "grants": [{"role": "viewer", "scope": ""}]}
    assert collector.ask("POST", f"{OURS}/users", json.dumps(body).encode()).status in (200, 201)
    verdict = collector.get("/audit/verify")
    assert verdict["ok"], verdict
    shown = collector.get("/dispatch")
    assert shown["unwritten"] == ""
    assert [one["outcome"] for one in shown["notices"]] == ["delivered"]
    filler.unlink()
    until(lambda: told()[1:] == [("resolved", "CollectorTakesNothing")], "the end of it", 120)
    # A power failure on the full disk: what people did is there, and they go on.
    fill(small_disk)
    collector.kill()
    collector.launch()
    assert collector.get("/audit/verify")["ok"]
    assert len(collector.get("/silences")["silences"]) == 20
    body = {"name": "bob", "grants": [{"role": "viewer", "scope": ""}]}
    assert collector.ask("POST", f"{OURS}/users", json.dumps(body).encode()).status in (200, 201)
