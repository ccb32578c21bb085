"""Debian's monitoring plugins: their exit codes are verdicts, and their performance data series."""

import asyncio
from pathlib import Path

import pytest

from watchbill_agent.checks.check import About, Outcome, Verdict
from watchbill_agent.checks.kinds.exec import Exec, Options

PLUGINS = Path("/usr/lib/nagios/plugins")

pytestmark = pytest.mark.real(f"{PLUGINS}/check_disk", f"{PLUGINS}/check_http")


async def look(*argv: str) -> tuple[Outcome, dict[tuple[str, ...], float]]:
    """The outcome, and its performance data by name and labels."""
    check = Exec(Options(argv=[str(PLUGINS / argv[0]), *argv[1:]]), About("x", 60, 10))
    outcome = await check.look(10)
    prefix = "watchbill_check_perfdata"
    said = {
        (one.name.removeprefix(prefix), *dict(one.labels).values()): value
        for one, value in zip(outcome.samples.series, outcome.samples.values, strict=True)
        if one.name.startswith(prefix)
    }
    return outcome, said


async def test_check_disk_yields_its_values_and_thresholds_in_bytes(tmp_path: Path) -> None:
    outcome, said = await look("check_disk", "-w", "1%", "-c", "0%", "-p", str(tmp_path))
    assert outcome.verdict is Verdict.OK
    assert outcome.detail.startswith("DISK OK")
    (path,) = {key[1] for key in said}
    size = said["_max", path, "bytes"]
    assert 0 < said["", path, "bytes"] <= size
    assert said["_warn_above", path, "bytes"] == pytest.approx(0.99 * size, rel=0.01)
    assert said["_crit_above", path, "bytes"] == pytest.approx(size, rel=0.01)
    assert said["_min", path, "bytes"] == 0


async def test_check_load_and_check_procs_yield_theirs() -> None:
    _, load = await look("check_load", "-w", "900,800,700", "-c", "950,850,750")
    assert {key[1] for key in load} == {"load1", "load5", "load15"}
    assert load["_warn_above", "load5"] == 800
    outcome, procs = await look("check_procs", "-c", "1:100000")
    assert outcome.verdict is Verdict.OK
    assert procs["", "procs"] >= 1


async def test_check_dummy_has_every_exit_code() -> None:
    said = await asyncio.gather(*(look("check_dummy", str(code), "word") for code in range(4)))
    assert [outcome.verdict for outcome, _ in said] == list(Verdict)
    assert all(outcome.detail.endswith("word") for outcome, _ in said)


async def test_check_http_yields_time_and_size() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        outcome, said = await look("check_http", "-I", "127.0.0.1", "-p", str(port), "-w", "5", "-c", "8")
    assert outcome.verdict is Verdict.OK
    assert 0 < said["", "time", "seconds"] < 5
    assert said["_crit_above", "time", "seconds"] == 8
    assert said["", "size", "bytes"] > 2
