"""`watchbill evidence` and its routes: who may have archives, and how checking ends."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import serve
from tests.evidence.conftest import AUDITOR, Site
from watchbill.backups.definition import Definition
from watchbill_collector.api.backup_port import BackupHistory, BackupJob, backup_id
from watchbill_collector.api.backup_report import Asked
from watchbill_collector.api.backup_twin import BackupsTwin
from watchbill_collector.api.evidence_port import WantedBackups
from watchbill_collector.api.ports import Caller, Grant, Role
from watchbill_collector.cli.program import run
from watchbill_collector.evidence.archive import pack, unpack
from watchbill_collector.evidence.verify import verify
from watchbill_collector.pki.keys import AuditKey

__all__ = ["serve"]

PEOPLE = {
    "audit": Caller("audra", (Grant(Role.AUDITOR),), user_id="u4"),
    "scope": Caller("sam", (Grant(Role.AUDITOR, 'team="a"'),), user_id="u5"),
    "oper": Caller("otto", (Grant(Role.OPERATOR),), user_id="u6"),
}


async def test_archives_are_for_auditors_without_a_scope_and_are_checked_offline(
    serve: Any, site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = await site.promote()
    served = await serve(parts=lambda _: {"evidence": site.evidence})
    served.twins.users.tokens.update({f"token-{name}": who for name, who in PEOPLE.items()})

    async def get(path: str, who: str) -> Any:
        return await served.client.get(
            f"/api/watchbill/v1{path}", headers={"Authorization": f"Bearer token-{who}"}
        )

    for path in (f"/runs/{run_id}/evidence", "/evidence"):
        assert (await get(path, "scope")).status_code == 403
        assert (await get(path, "oper")).status_code == 403
        answer = await get(path, "audit")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
        file = tmp_path / f"{path.count('/')}.zip"
        file.write_bytes(answer.content)
        key = (await get("/evidence/key", "oper")).json()["key"]
        assert run(["evidence", "verify", str(file), "--key", key]) == 0
    assert "everything in it holds" in capsys.readouterr().out
    assert (await get("/runs/nobody/evidence", "audit")).status_code == 404
    assert (await get("/evidence?since=2000", "audit")).status_code == 400

    assert run(["evidence", "verify", str(file), "--key", "00" * 32, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["findings"][0]["file"]) == (False, "index.signed")
    damaged = file.read_bytes().replace(b"run.json", b"rum.json")
    (tmp_path / "damaged.zip").write_bytes(damaged)
    assert run(["evidence", "verify", str(tmp_path / "damaged.zip"), "--key", key]) == 1
    capsys.readouterr()
    for typed in (
        [],
        ["verify"],
        ["a", "b"],
        [run_id, "--since", "1d"],
        [run_id, "--key", key],
        ["verify", str(file), "--key", "short"],
    ):
        assert run(["evidence", *typed]) == 2, typed


async def test_an_archive_is_fetched_into_a_file_that_was_not_there(
    serve: Any, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await site.promote()
    served = await serve(parts=lambda _: {"evidence": site.evidence})
    served.twins.users.tokens["token-audit"] = PEOPLE["audit"]
    monkeypatch.setenv("WATCHBILL_URL", served.url)
    (tmp_path / "token").write_text("token-audit\n")
    monkeypatch.setenv("WATCHBILL_TOKEN_FILE", str(tmp_path / "token"))
    out = tmp_path / "a.zip"
    for what, code in (([run_id], 0), ([run_id], 2)):
        assert await asyncio.to_thread(run, ["evidence", *what, "--out", str(out)]) == code
    assert await asyncio.to_thread(run, ["evidence", "verify", str(out)]) == 0, (
        "the collector vouches for its key"
    )
    period = tmp_path / "b.zip"
    assert await asyncio.to_thread(run, ["evidence", "--since", "1d", "--out", str(period)]) == 0


def backup(name: str, team: str) -> BackupJob:
    return BackupJob(
        id=backup_id(f"id-{team}", name),
        name=name,
        host=f"db-{team}",
        agent_id=f"id-{team}",
        labels={"team": team},
        service="",
        tool="files",
        word="OK",
        level="ok",
        severity="",
        why="",
        advice="",
    )


async def test_the_report_on_backups_is_signed_for_who_audits_and_says_what_is_not_in_it(
    serve: Any,
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    backups = site.evidence._beside.backups
    assert isinstance(backups, BackupsTwin)
    now = datetime.fromtimestamp(site.house.clock.wall_ms() / 1000, UTC)
    for name, team in (("nightly", "a"), ("weekly", "a"), ("theirs", "b")):
        definition = Definition(name=name, tool="files")
        history = BackupHistory(
            definition=definition, digest="d", defined=now, due=None, entries=[], truncated=False
        )
        backups.put(backup(name, team), history)
    served = await serve(parts=lambda _: {"evidence": site.evidence, "backups": backups})
    served.twins.users.tokens.update({f"token-{name}": who for name, who in PEOPLE.items()})
    monkeypatch.setenv("WATCHBILL_URL", served.url)
    monkeypatch.setenv("WATCHBILL_TOKEN_FILE", str(tmp_path / "token"))
    key = site.key.public.hex()

    async def signed(who: str, file: str, *more: str) -> int:
        (tmp_path / "token").write_text(f"token-{who}\n")
        return await asyncio.to_thread(run, ["backups", "report", *more, "--signed", str(tmp_path / file)])

    def verified(file: str) -> dict[str, Any]:
        capsys.readouterr()
        code = run(["evidence", "verify", str(tmp_path / file), "--key", key, "--json"])
        told: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert (code == 0) is told["ok"]
        return told

    assert await signed("audit", "all.zip", "--objective", "99") == 0
    told = verified("all.zip")
    assert (told["ok"], told["notes"], told["about"]["rows"], told["about"]["made_by"]) == (
        True,
        [],
        3,
        "audra",
    )
    opened = unpack((tmp_path / "all.zip").read_bytes())
    document = json.loads(opened.files["backups.json"])
    assert ([row["name"] for row in document["rows"]], document["objective"]) == (
        ["nightly", "weekly", "theirs"],
        0.99,
    )
    assert await signed("audit", "all.zip") == 2, "one is never replaced"
    assert await signed("scope", "theirs.zip", "--host", "db-a") == 0
    told = verified("theirs.zip")
    assert (told["ok"], told["about"]["rows"], told["about"]["asked"]) == (True, 2, {"host": "db-a"})
    assert "not all backups are in it" in told["notes"][0]
    assert 'team="a"' in told["notes"][0]
    assert await signed("oper", "none.zip") == 6
    assert (
        await asyncio.to_thread(run, ["backups", "report", "--csv", "--signed", str(tmp_path / "x.zip")]) == 2
    )
    recorded = [row.target for row in site.audit.after(0, 1000) if row.action == "evidence.made"]
    assert [one.split()[0] for one in recorded] == ["backups", "backups"], "who made them is in the audit"


async def test_a_signed_report_that_was_changed_does_not_hold(site: Site, tmp_path: Path) -> None:
    wanted = WantedBackups([], Asked(), {}, "everything")
    made = await site.evidence.backups(wanted, AUDITOR)
    opened = unpack(made.content)
    assert opened.index is not None
    assert verify(made.content, (site.key.public,), {}).ok
    other = AuditKey.open(tmp_path)
    for about, files, fault in (
        (
            {},
            {"backups.json": opened.files["backups.json"].replace(b'"left_out": 0', b'"left_out": 1')},
            "left_out",
        ),
        ({"rows": 7}, {}, "7"),
        ({"kind": "all"}, {}, "wanted run, period or backups"),
    ):
        changed = pack(
            {**opened.index.about, **about}, {**opened.files, **files}, site.key.public, site.key.sign
        )
        found = verify(changed, (site.key.public,), {}).findings
        assert fault in " ".join(one.detail for one in found), found
    forged = pack(opened.index.about, opened.files, other.public, other.sign)
    assert verify(forged, (site.key.public,), {}).findings[0].file == "index.signed"
