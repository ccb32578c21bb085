"""An archive of evidence holds what was, and whatever is changed in it is named, whoever signs it afterwards."""

import base64
import json
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.evidence.conftest import AUDITOR, SAFE, Site
from watchbill.actions.roster import read_public_file
from watchbill.actions.signing import public_key
from watchbill.errors import StorageError, Unreadable
from watchbill_collector.api.ports import NoSuch
from watchbill_collector.evidence import chains, follow
from watchbill_collector.evidence.archive import INDEX, pack, unpack
from watchbill_collector.evidence.verify import NO_ROSTER_KEYS, Verdict, verify
from watchbill_collector.pki.keys import AuditKey
from watchbill_collector.store import audit as audit_rows
from watchbill_collector.store import runs as run_rows

ROSTER_KEYS = read_public_file(f"ed25519 {public_key(SAFE).hex()} the safe\n".encode())
Files = dict[str, bytes]


def checked(site: Site, content: bytes, roster_keys: Mapping[str, bytes] = ROSTER_KEYS) -> Verdict:
    return verify(content, (site.key.public,), roster_keys)


def named(verdict: Verdict) -> set[str]:
    return {finding.file for finding in verdict.findings}


def signed_again(
    site: Site, content: bytes, change: Callable[[Files], None], key: AuditKey | None = None
) -> bytes:
    """The same archive after a change, signed as if it had been made so."""
    opened = unpack(content)
    assert opened.index is not None
    files = dict(opened.files)
    change(files)
    signer = key or site.key
    return pack(opened.index.about, files, signer.public, signer.sign)


def changed_json(name: str, change: Callable[[Any], None]) -> Callable[[Files], None]:
    def work(files: Files) -> None:
        document = json.loads(files[name])
        change(document)
        files[name] = json.dumps(document).encode()

    return work


def changed_line(name: str, kind: tuple[str, str], change: Callable[[Any], None]) -> Callable[[Files], None]:
    def work(files: Files) -> None:
        rows = [json.loads(line) for line in files[name].splitlines()]
        change(next(row for row in rows if row[kind[0]] == kind[1]))
        files[name] = b"".join(chains.line(row) for row in rows)

    return work


async def test_a_run_is_told_whole_and_everything_in_it_holds(site: Site) -> None:
    run_id = await site.promote()
    made = await site.evidence.run(run_id, AUDITOR)
    verdict = checked(site, made.content)
    assert (verdict.findings, verdict.notes) == ([], [])
    files = unpack(made.content).files
    run = json.loads(files["run.json"])
    assert (run["state"], run["requester"], run["rto_kept"]) == (
        "succeeded",
        "ada",
        True if run["rto_ms"] else None,
    )
    assert run["recovery_ms"] == 2_000, "a second a vote, by the clock of the test"
    (gate,) = json.loads(files["gates.json"])
    assert (gate["passed"], [vote["person"] for vote in gate["votes"]]) == (True, ["anna", "boris"])
    assert {one["action"] for one in json.loads(files["outputs.json"])} == {"db.look", "db.promote"}
    assert [one["person"] for one in json.loads(files["acceptances.json"])] == ["carl"]
    labels = {
        (one["framework"], one["control"]): one["served_by"] for one in json.loads(files["controls.json"])
    }
    assert labels["SOC 2", "A1.3"] == ["journal.jsonl", "run.json"]
    assert len(labels) == 9
    assert "evidence.made" in [row.action for row in site.audit.after(0, 100)]


async def test_the_same_content_is_the_same_archive_byte_for_byte(site: Site) -> None:
    content = (await site.evidence.run(await site.promote(), AUDITOR)).content
    assert signed_again(site, content, lambda _: None) == content


async def test_every_document_that_is_changed_is_named(site: Site) -> None:
    content = (await site.evidence.run(await site.promote(), AUDITOR)).content
    opened = unpack(content)
    for name in opened.files:

        def spoil(files: Files, name: str = name) -> None:
            files[name] += b" "

        # Whoever has no key keeps the index that was signed.
        spoiled = _with_old_index(content, spoil)
        assert name in named(checked(site, spoiled)), name
        gone = _with_old_index(content, lambda files, name=name: files.pop(name))  # type: ignore[misc]
        assert name in named(checked(site, gone)), name
    more = _with_old_index(content, lambda files: files.update({"more.txt": b"x"}))
    assert named(checked(site, more)) == {"more.txt"}


def _with_old_index(content: bytes, change: Callable[[Files], Any]) -> bytes:
    import io
    import zipfile

    with zipfile.ZipFile(io.BytesIO(content)) as found:
        files = {name: found.read(name) for name in found.namelist()}
    index = files.pop(INDEX)
    change(files)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        for name, body in ((INDEX, index), *files.items()):
            made.writestr(name, body)
    return out.getvalue()


CHANGES: dict[str, tuple[str, Callable[[Files], None]]] = {
    "who asked": ("run.json", changed_json("run.json", lambda run: run.update(requester="eve"))),
    "how long it took": ("run.json", changed_json("run.json", lambda run: run.update(recovery_ms=1))),
    "a vote left out": ("gates.json", changed_json("gates.json", lambda gates: gates[0]["votes"].pop())),
    "an output": (
        "outputs.json",
        changed_json("outputs.json", lambda found: found[0].update(output_digest="00")),
    ),
    "a refusal made up": (
        "refusals.json",
        changed_json("refusals.json", lambda found: found.append({"what": "x"})),
    ),
    "the text": (
        "runbook.yaml",
        lambda files: files.update({"runbook.yaml": files["runbook.yaml"] + b"#\n"}),
    ),
    "another text accepted": (
        "acceptances.json",
        changed_json("acceptances.json", lambda found: found[0].update(digest="00")),
    ),
    "a row": (
        "journal.jsonl",
        changed_line("journal.jsonl", ("kind", "result"), lambda row: row.update(at_ms=5)),
    ),
    "the last rows cut off": (
        "journal.jsonl",
        lambda files: files.update(
            {"journal.jsonl": b"".join(line + b"\n" for line in files["journal.jsonl"].splitlines()[:-2])}
        ),
    ),
    "an audit row": (
        "audit.jsonl",
        changed_line("audit.jsonl", ("action", "run.end"), lambda row: row.update(actor="eve")),
    ),
    "the checkpoint": (
        "checkpoint.json",
        changed_json("checkpoint.json", lambda one: one.update(seq=one["seq"] + 1)),
    ),
    "no checkpoint": ("checkpoint.json", lambda files: files.update({"checkpoint.json": b"{}"})),
    "a roster": ("rosters.json", changed_json("rosters.json", lambda found: found[0].update(serial=5))),
    "no rosters": ("gates.json", lambda files: files.update({"rosters.json": b"[]"})),
    "a control": ("controls.json", changed_json("controls.json", lambda found: found.pop())),
    "no JSON": ("gates.json", lambda files: files.update({"gates.json": b"{"})),
    "a journal of nonsense": ("journal.jsonl", lambda files: files.update({"journal.jsonl": b"[1]\n"})),
}


async def test_what_is_changed_is_named_even_when_the_collectors_own_key_signs_it_again(site: Site) -> None:
    content = (await site.evidence.run(await site.promote(), AUDITOR)).content
    for what, (name, change) in CHANGES.items():
        assert name in named(checked(site, signed_again(site, content, change))), what


async def test_a_journal_that_is_written_anew_with_all_its_hashes_contradicts_the_audit(site: Site) -> None:
    run_id = await site.promote()
    content = (await site.evidence.run(run_id, AUDITOR)).content

    def rewrite(files: Files) -> None:
        before, made = chains.journal_genesis("main", run_id), []
        for line in files["journal.jsonl"].splitlines():
            row = json.loads(line)
            if row["kind"] == "created":
                row["body"] = row["body"].replace('"ada"', '"eve"')
            content = {name: row[name] for name in ("n", "at_ms", "kind", "body")}
            before_row = before
            before = chains._hash(chains.JOURNAL, before, {**content, "run_id": run_id, "site": "main"})
            made.append({**content, "prev_hash": before_row, "hash": before})
        files["journal.jsonl"] = b"".join(chains.line(row) for row in made)

    verdict = checked(site, signed_again(site, content, rewrite))
    told = [finding.detail for finding in verdict.findings if finding.file == "journal.jsonl"]
    assert any("written anew" in one for one in told), told


async def test_who_signs_with_a_key_of_his_own_is_vouched_for_by_nobody(site: Site, tmp_path: Any) -> None:
    content = (await site.evidence.run(await site.promote(), AUDITOR)).content
    forged = signed_again(site, content, lambda _: None, AuditKey.open(tmp_path))
    verdict = checked(site, forged)
    assert {INDEX, "checkpoint.json"} <= named(verdict)
    assert "vouched for" in verdict.findings[0].detail


async def test_rosters_are_checked_against_roster_pub_and_without_it_that_is_said(site: Site) -> None:
    content = (await site.evidence.run(await site.promote(), AUDITOR)).content
    assert checked(site, content, {}).notes == [NO_ROSTER_KEYS]
    other = read_public_file(f"ed25519 {public_key(bytes(32)).hex()}\n".encode())
    assert "rosters.json" in named(checked(site, content, other))


async def test_a_vote_that_somebody_else_signed_does_not_carry_the_gate(site: Site) -> None:
    run_id = await site.promote()
    content = (await site.evidence.run(run_id, AUDITOR)).content

    def swap(files: Files) -> None:
        """The collector's thief has the journal say that Anna signed what Boris did, hashes mended."""
        before, made = chains.journal_genesis("main", run_id), []
        boris = ""
        rows = [json.loads(line) for line in files["journal.jsonl"].splitlines()]
        for row in rows:
            body = json.loads(row["body"])
            if body.get("row") == "vote":
                boris = body["signed"]
        for row in rows:
            body = json.loads(row["body"])
            if body.get("row") == "vote":
                body["signed"] = boris
            kept = {"n": row["n"], "at_ms": row["at_ms"], "kind": row["kind"], "body": json.dumps(body)}
            was = before
            before = chains._hash(chains.JOURNAL, before, {**kept, "run_id": run_id, "site": "main"})
            made.append({**kept, "prev_hash": was, "hash": before})
        files["journal.jsonl"] = b"".join(chains.line(row) for row in made)

    verdict = checked(site, signed_again(site, content, swap))
    told = " ".join(one.detail for one in verdict.findings if one.file == "gates.json")
    assert "the vote of anna: it says something else than the journal" in told
    assert "passed by the word of anna" in told


async def test_chains_are_worked_out_as_the_store_writes_them(site: Site) -> None:
    run_id = await site.promote()
    journal = site.house.journal(run_id)
    assert chains.journal_genesis("main", run_id) == run_rows.genesis("main", run_id).hash.hex()
    rows = [
        {
            "n": r.n,
            "at_ms": r.at_ms,
            "kind": r.kind,
            "body": r.body,
            "prev_hash": r.prev_hash.hex(),
            "hash": r.hash.hex(),
        }
        for r in journal
    ]
    assert list(chains.journal_faults("main", run_id, rows)) == []
    site.audit.record(None, "zoë", "a.b", "ü", "done", {"x": "é"})
    told = [
        {name: getattr(row, name) for name in chains.AUDIT_FIELDS}
        | {"prev_hash": row.prev_hash.hex(), "hash": row.hash.hex()}
        for row in site.audit.after(0, 1000)
    ]
    assert list(chains.audit_faults(told, whole=True)) == []
    assert told[0]["prev_hash"] == audit_rows.genesis("main").hex()


async def test_a_time_is_told_with_all_its_runs_and_a_run_that_is_left_out_is_missed(site: Site) -> None:
    first, second = await site.promote(drill=True), await site.promote()
    made = await site.evidence.period(None, None, AUDITOR)
    verdict = checked(site, made.content)
    assert verdict.findings == []
    files = unpack(made.content).files
    period = json.loads(files["period.json"])
    assert {run["id"] for run in period["runs"]} == {first, second}
    assert (period["drills"], period["recovered"]) == (1, 2)
    assert {"drills.json", "backups.json"} <= files.keys()

    def drop(files: Files) -> None:
        for name in [one for one in files if one.startswith(f"runs/{second}/")]:
            del files[name]

    assert "period.json" in named(checked(site, signed_again(site, made.content, drop)))
    inner = changed_json(f"runs/{first}/run.json", lambda run: run.update(state="failed"))
    assert {f"runs/{first}/run.json", "period.json"} <= named(
        checked(site, signed_again(site, made.content, inner))
    )


async def test_nothing_is_handed_out_that_the_audit_cannot_tell_of(site: Site) -> None:
    run_id = await site.promote()
    await site.evidence.run(run_id, AUDITOR)
    other = sqlite3.connect(site.house.directory / "control.db")
    other.execute("CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no room'); END")
    other.commit()
    other.close()
    with pytest.raises(StorageError):
        await site.evidence.run(run_id, AUDITOR)
    with pytest.raises(NoSuch):
        await site.evidence.run("nobody", AUDITOR)


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"x" * 1000, base64.b64decode("UEsFBgAAAAAAAAAAAAAAAAAAAAAAAA==")]
)
def test_what_is_no_archive_is_refused(content: bytes) -> None:
    with pytest.raises(Unreadable):
        verify(content, (), {})


@pytest.mark.parametrize(
    ("rto_ms", "recovered_ms", "ended", "kept"),
    [
        (0, 500, True, None),
        (1_000, 900, True, True),
        (1_000, 1_100, True, False),
        (1_000, None, True, False),
        (1_000, None, False, None),
        (1_000, 900, False, True),
    ],
)
def test_an_objective_is_kept_missed_or_not_yet_known(
    rto_ms: int, recovered_ms: int | None, ended: bool, kept: bool | None
) -> None:
    bodies: list[tuple[int, dict[str, Any]]] = [
        (
            0,
            {
                "row": "created",
                "runbook": "a",
                "digest": "d",
                "parameters": {},
                "requester": "x",
                "reason": "y",
                "rto_ms": rto_ms,
            },
        )
    ]
    if recovered_ms is not None:
        bodies.append((recovered_ms, {"row": "recovered", "step": "act"}))
    if ended:
        bodies.append((2_000, {"row": "state", "state": "succeeded"}))
    rows = [
        {"n": n, "at_ms": at_ms, "kind": body["row"], "body": json.dumps(body), "hash": "", "prev_hash": ""}
        for n, (at_ms, body) in enumerate(bodies, 1)
    ]
    run = follow.documents("r1", rows)["run.json"]
    assert (run["recovery_ms"], run["rto_kept"]) == (recovered_ms, kept)
