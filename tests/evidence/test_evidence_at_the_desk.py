"""`watchbill evidence` and its routes: who may have archives, and how checking ends."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import serve
from tests.evidence.conftest import Site
from watchbill_collector.api.ports import Caller, Grant, Role
from watchbill_collector.cli.program import run

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
