"""Reading access logs: megabytes a CPU second of a whole look, from the file to the families and what is remembered.

Beside it mawk, the quickest awk there is, as somebody would count with it: it splits lines at spaces, which the name of
a user or an agent may hold, and knows neither quotes nor rotation nor where it stopped. mtail and GoAccess are no
packages of Debian that the benchmarks install. For patterns the peer is grep.
"""

import os
import random
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import Report
from watchbill.config import ByteSize
from watchbill_agent.checks.check import About
from watchbill_agent.checks.kinds.log import Log, Options, PathOptions
from watchbill_agent.checks.log_patterns import PatternOptions

MIB = 1 << 20
LINES = 40_000
"""Different ones; the file is made of them again and again."""
WANTED_ALL = 20.0
WANTED_LIGHT = 100.0
AGENTS = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_1 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148",
    "curl/8.5.0",
)
AWK_ALL = (
    '{ requests[$9 " " substr($6, 2)]++; bytes += $10; clients[$1] = 1; d = $NF; sum += d;'
    " for (i = 1; i <= 12; i++) if (d <= le[i]) { buckets[i]++; break } }"
)
AWK_LIGHT = (
    "{ status[$9]++; d = $NF; sum += d; for (i = 1; i <= 12; i++) if (d <= le[i]) { buckets[i]++; break } }"
)
AWK_BEGIN = 'BEGIN { split("0.005 0.01 0.025 0.05 0.1 0.25 0.5 1 2.5 3 5 10", le, " ") }'


def run(*, quick: bool) -> Report:
    """Every format, whole and light."""
    report = Report("logs: MB a CPU second of one look")
    place = Path(tempfile.mkdtemp(prefix="wb-logs-", dir=os.environ.get("WATCHBILL_BENCH_DIR")))
    size = (16 if quick else 256) * MIB
    try:
        _cases(report, place, size)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    report.notes.append(
        f"a log of {size // MIB} MiB, {LINES} different lines of about 200 bytes, in the page cache"
    )
    report.notes.append(
        f"wanted: {WANTED_ALL:g} MB/s with all fields, {WANTED_LIGHT:g} for status and duration alone"
    )
    report.notes.append("mawk splits at spaces; grep counts; neither remembers where it stopped")
    return report


def _cases(report: Report, place: Path, size: int) -> None:
    text = _write(place / "timed.log", size, list(_lines()))
    torn = _write(
        place / "torn.log",
        size,
        [line[: 80 if number % 1000 == 0 else None] for number, line in enumerate(_lines())],
    )
    objects = _write(place / "json.log", size, list(_objects()))
    awk = shutil.which("mawk")
    timed: dict[str, Any] = {"format": "combined_time"}
    paths = [PathOptions(name=f"group{number}", regex=f"^/shop/{number}") for number in range(10)]
    cases: Sequence[tuple[str, Path, dict[str, Any], list[str] | None]] = (
        ("combined and a time, all fields", text, timed, [AWK_ALL]),
        ("the same with ten groups of paths", text, {**timed, "paths": paths}, None),
        ("status and duration alone", text, {**timed, "light": True}, [AWK_LIGHT]),
        ("all fields, one line in a thousand torn", torn, timed, None),
        ("status and duration, one line in a thousand torn", torn, {**timed, "light": True}, None),
        ("JSON lines, all fields", objects, {"format": "json"}, None),
        ("JSON lines, status and duration", objects, {"format": "json", "light": True}, None),
    )
    for what, path, options, program in cases:
        peer = None
        if program is not None and awk is not None:
            argv = [awk, f"{AWK_BEGIN} {program[0]}", str(path)]
            peer = _rate(path, resource.RUSAGE_CHILDREN, lambda argv=argv: _program(argv))
        report.add(what, _ours(path, **options), "MB/s", peer, "mawk" if peer else "")
    for what, regex in (
        ("a pattern with a literal", "upstream timed out"),
        ("a pattern without", r"(?i)E\d+ warn"),
    ):
        grep = _rate(
            text, resource.RUSAGE_CHILDREN, lambda regex=regex: _program(["grep", "-cP", regex, str(text)])
        )
        patterns = [PatternOptions(name="p", regex=regex)]
        report.add(what, _ours(text, patterns=patterns), "MB/s", grep, "grep -P")


def _ours(path: Path, **options: Any) -> float:
    check = Log(
        Options(files=[str(path)], from_start=True, look_bytes=ByteSize(1 << 34), **options),
        About("bench", 30, 600),
    )

    def look() -> None:
        outcome = check.look(600)
        assert outcome.reason == "", outcome.detail
        assert check.memory() is not None

    return _rate(path, resource.RUSAGE_SELF, look)


def _rate(path: Path, who: int, work: Callable[[], None]) -> float:
    before = resource.getrusage(who)
    work()
    after = resource.getrusage(who)
    spent_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return path.stat().st_size / 1e6 / max(spent_s, 1e-6)


def _program(argv: list[str]) -> None:
    done = subprocess.run(argv, check=False, stdout=subprocess.DEVNULL)
    assert done.returncode in (0, 1), argv


def _write(path: Path, size: int, lines: list[bytes]) -> Path:
    block = b"".join(line if line.endswith(b"\n") else line + b"\n" for line in lines)
    with path.open("wb") as file:
        for _ in range(max(1, size // len(block))):
            file.write(block)
    return path


def _values() -> Iterator[tuple[str, str, str, int, int, str, float]]:
    chance = random.Random(7)
    for _ in range(LINES):
        client = f"10.{chance.randrange(4)}.{chance.randrange(256)}.{chance.randrange(256)}"
        method = "POST" if chance.random() < 0.1 else "GET"
        path = f"/shop/{chance.randrange(20)}/item/{chance.randrange(5_000)}?ref=mail"
        status = chance.choices((200, 304, 404, 500, 302), (900, 60, 20, 5, 15))[0]
        yield (
            client,
            method,
            path,
            status,
            chance.randrange(100, 60_000),
            chance.choice(AGENTS),
            chance.lognormvariate(-3, 1),
        )


def _lines() -> Iterator[bytes]:
    for number, (client, method, path, status, size, agent, seconds) in enumerate(_values()):
        when = f"29/Nov/2026:19:{number // 60 % 60:02}:{number % 60:02} +0000"
        yield (
            f'{client} - - [{when}] "{method} {path} HTTP/1.1" {status} {size} '
            f'"https://www.example.org/shop/list" "{agent}" {seconds:.3f}\n'
        ).encode()


def _objects() -> Iterator[bytes]:
    for client, method, path, status, size, agent, seconds in _values():
        yield (
            f'{{"time":"2026-11-29T19:06:41+00:00","remote_addr":"{client}","request_method":"{method}",'
            f'"request_uri":"{path}","status":{status},"body_bytes_sent":{size},"http_user_agent":"{agent}",'
            f'"request_time":{seconds:.3f}}}\n'
        ).encode()
