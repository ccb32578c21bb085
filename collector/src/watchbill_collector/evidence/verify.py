"""Checks an archive of evidence: every digest, chain and signature; what does not hold is named, file by file.

What follows from an archive alone is worth what its signer is worth. So the key inside is held against keys that
whoever checks had before (`trusted`), and rosters against his `roster.pub`; where he has none, that is said.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from watchbill.actions.signing import key_id
from watchbill_collector.evidence import chains, follow, votes
from watchbill_collector.evidence.archive import INDEX, Index, Opened, unpack
from watchbill_collector.evidence.controls import controls

FINDINGS_MAX: Final = 200
"""Kept; more are counted."""
RUN, PERIOD, BACKUPS = "run", "period", "backups"
NO_ROSTER_KEYS: Final = (
    "the rosters' own signatures were not checked: nobody said with which keys (--roster-pub FILE)"
)

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """What does not hold, and in which file."""

    file: str
    detail: str


@dataclass(slots=True)
class Verdict:
    """What came of it. `notes` are what could not be checked, and why."""

    about: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""
    files: int = 0
    findings: list[Finding] = field(default_factory=list)
    left_out: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything holds."""
        return not self.findings

    def find(self, file: str, detail: str) -> None:
        """One thing that does not hold."""
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(file, detail))
        else:
            self.left_out += 1


def verify(content: bytes, trusted: Sequence[bytes], roster_keys: Mapping[str, bytes]) -> Verdict:
    """Check an archive. Raises Unreadable for what is none."""
    opened = unpack(content)
    verdict = Verdict(files=len(opened.files))
    if opened.fault:
        verdict.find(INDEX, opened.fault.removeprefix(f"{INDEX}: "))
    if opened.index is None:
        return verdict
    _check_index(verdict, opened, opened.index, trusted)
    _Checking(verdict, opened.index, opened.files, roster_keys).all()
    return verdict


def _check_index(verdict: Verdict, opened: Opened, index: Index, trusted: Sequence[bytes]) -> None:
    verdict.about, verdict.key = index.about, index.key.hex()
    if index.key not in trusted:
        known = ", ".join(key_id(key) for key in trusted) or "none"
        verdict.find(
            INDEX, f"signed with the key {key_id(index.key)}, wanted one that is vouched for: {known}"
        )
    for name, (digest, size) in index.files.items():
        body = opened.files.get(name)
        if body is None:
            verdict.find(name, "it is missing")
        elif hashlib.sha256(body).hexdigest() != digest or len(body) != size:
            verdict.find(name, "it is not the document that was signed")
    for name in opened.files:
        if name not in index.files:
            verdict.find(name, "nobody signed it")


class _Checking:
    """One archive, from its documents inwards."""

    def __init__(
        self, verdict: Verdict, index: Index, files: Mapping[str, bytes], roster_keys: Mapping[str, bytes]
    ) -> None:
        self._verdict = verdict
        self._index = index
        self._files = files
        self._site = str(index.about.get("site", ""))
        self._rosters: list[Any] = []
        self._roster_keys = roster_keys
        self._heads: dict[str, tuple[int, str]] = {}
        """What the audit says of journals: by run and number of a row, which of its own rows says so, and the hash."""

    def all(self) -> None:
        """Every check there is."""
        kind = self._index.about.get("kind")
        if kind == BACKUPS:
            self._each("controls.json", self._check_controls)
            self._each("backups.json", self._check_backups)
            return
        self._each("rosters.json", self._check_rosters)
        self._each("audit.jsonl", self._check_audit)
        self._each("controls.json", self._check_controls)
        if kind == RUN:
            self._check_run("", str(self._index.about.get("run", "")))
        elif kind == PERIOD:
            self._each("period.json", self._check_period)
        else:
            self._verdict.find(INDEX, f"says that it is {kind!a:.40}, wanted {RUN}, {PERIOD} or {BACKUPS}")

    def _each(self, name: str, check: Callable[[str], Iterator[str] | None]) -> None:
        """One file, of which nothing is believed: what cannot be read is a finding like any other."""
        try:
            for fault in check(name) or ():
                self._verdict.find(name, fault)
        except (KeyError, ValueError, TypeError, AttributeError, IndexError, RecursionError) as exc:
            self._verdict.find(name, f"it cannot be read: {exc!r:.200}")

    def _json(self, name: str) -> Any:
        if name not in self._files:
            raise KeyError("it is missing")
        return json.loads(self._files[name])

    def _lines(self, name: str) -> list[Row]:
        if name not in self._files:
            raise KeyError("it is missing")
        return [json.loads(line) for line in self._files[name].splitlines()]

    # ------------------------------------------------------------ what all runs stand on

    def _check_rosters(self, name: str) -> Iterator[str]:
        found = self._json(name)
        self._rosters, faults = votes.read_rosters(found, self._roster_keys)
        yield from faults
        if found and not self._roster_keys:
            self._verdict.notes.append(NO_ROSTER_KEYS)

    def _check_audit(self, name: str) -> Iterator[str]:
        rows = self._lines(name)
        whole = self._index.about.get("audit") == "whole"
        yield from chains.audit_faults(rows, whole=whole)
        if not whole:
            self._verdict.notes.append(
                "the audit's rows are in it, and not all between them: their chain is checked by "
                "`watchbill audit export` and `audit verify`"
            )
        for row in rows:
            detail = json.loads(row["detail"])
            if "journal_hash" in detail:
                place = f"{detail['run']} {detail['journal_n']}"
                self._heads[place] = (row["seq"], detail["journal_hash"])
        self._each("checkpoint.json", lambda file: self._check_checkpoint(file, rows))

    def _check_checkpoint(self, name: str, rows: Sequence[Row]) -> Iterator[str]:
        checkpoint = self._json(name)
        if not checkpoint:
            yield "the audit's rows are under no signature of the collector"
            return
        if not chains.checkpoint_holds(checkpoint):
            yield "its signature does not hold"
        if checkpoint["key"] != self._index.key.hex():
            yield "it is signed with another key than the archive"
        if checkpoint["site"] != self._site:
            yield f"it is of the site {checkpoint['site']!a:.40}"
        here = [row for row in rows if row["seq"] == checkpoint["seq"]]
        if here and here[0]["hash"] != checkpoint["hash"]:
            yield f"row {checkpoint['seq']} of the audit is not the one that was signed"
        if not here or rows[-1]["seq"] > checkpoint["seq"]:
            yield f"the audit's rows are not under it: it is under row {checkpoint['seq']}"

    def _check_controls(self, name: str) -> Iterator[str]:
        wanted = controls([one for one in self._index.files if one != name])
        if self._json(name) != wanted:
            yield "it names other documents than there are"

    def _check_backups(self, file: str) -> Iterator[str]:
        """The report against what the index says that it is; its numbers are the collector's word."""
        found, about = self._json(file), self._index.about
        for name in ("since_ms", "until_ms", "left_out"):
            if found[name] != about[name]:
                yield f"its {name} is {found[name]!a:.40}, and {INDEX} says {about[name]!a:.40}"
        ids = [row["id"] for row in found["rows"]]
        if len(ids) != about["rows"]:
            yield f"it has {len(ids)} rows, and {INDEX} says {about['rows']!a:.40}"
        if len(set(ids)) < len(ids):
            yield "a backup is in it twice"
        if about["hosts"] != "everything" or about["asked"]:
            only = " ".join(f"{key}={value!a:.80}" for key, value in about["asked"].items())
            self._verdict.notes.append(
                f"not all backups are in it: hosts {about['hosts']!a:.200} {only}".rstrip()
            )

    def _check_period(self, name: str) -> Iterator[str]:
        found = self._json(name)
        listed = {one["id"] for one in found["runs"]}
        there = {path.split("/")[1] for path in self._files if path.startswith("runs/")}
        for run_id in sorted(listed ^ there):
            yield (
                f"run {run_id}: it is listed and not there"
                if run_id in listed
                else (f"run {run_id}: it is there and not listed")
            )
        for one in found["runs"]:
            if one["id"] in there:
                self._check_run(f"runs/{one['id']}/", one["id"])
                run = self._json(f"runs/{one['id']}/run.json")
                if any(one[field] != run[field] for field in one):
                    yield f"run {one['id']}: it says something else than its run.json"

    # ------------------------------------------------------------ one run

    def _check_run(self, prefix: str, run_id: str) -> None:
        journal, run_file = f"{prefix}journal.jsonl", f"{prefix}run.json"
        follows: dict[str, Any] = {}

        def check_journal(name: str) -> Iterator[str]:
            rows = self._lines(name)
            yield from chains.journal_faults(self._site, run_id, rows)
            yield from self._head_faults(run_id, rows)
            follows.update(follow.documents(run_id, rows))

        self._each(journal, check_journal)
        if not follows:
            return
        for name, wanted in follows.items():
            self._each(f"{prefix}{name}", lambda file, wanted=wanted: self._follows(file, wanted))  # type: ignore[misc]
        run = follows["run.json"]
        self._each(
            f"{prefix}gates.json",
            lambda _: votes.gate_faults(follows["gates.json"], run, self._site, self._rosters),
        )
        self._each(f"{prefix}runbook.yaml", lambda file: self._text(file, run["digest"]))
        for called, digest in run["called"].items():
            self._each(f"{prefix}called/{called}.yaml", lambda file, digest=digest: self._text(file, digest))  # type: ignore[misc]
        self._each(f"{prefix}acceptances.json", lambda file: self._accepted(file, run))
        if not run["ended_ms"]:
            self._verdict.notes.append(f"{run_file}: the run has not ended; this is how it stood")

    def _follows(self, name: str, wanted: Any) -> Iterator[str]:
        if self._json(name) != wanted:
            yield "it says something else than what follows from the journal"

    def _text(self, name: str, digest: str) -> Iterator[str]:
        if hashlib.sha256(self._files[name]).hexdigest() != digest:
            yield f"it is not the text with the digest {digest[:16]}, which was run"

    def _accepted(self, name: str, run: Row) -> Iterator[str]:
        digests = {run["digest"], *run["called"].values()}
        accepted = {one["digest"] for one in self._json(name)}
        if accepted - digests:
            yield "it tells of the acceptance of another text"
        if not run["drill"] and run["digest"] not in accepted:
            self._verdict.notes.append(f"{name}: nobody had accepted this text")

    def _head_faults(self, run_id: str, rows: Sequence[Row]) -> Iterator[str]:
        """The journal against what the audit, which is signed, says of it."""
        named = 0
        for place, (seq, wanted) in self._heads.items():
            name, _, number = place.rpartition(" ")
            if name != run_id:
                continue
            named = max(named, int(number))
            if int(number) > len(rows):
                yield f"rows {len(rows) + 1} to {number} are missing: row {seq} of the audit knows them"
            elif rows[int(number) - 1]["hash"] != wanted:
                yield f"row {number} is not the one that row {seq} of the audit names: it was written anew"
        if not named:
            yield "the audit does not name any of its rows"
        elif named < len(rows) and json.loads(rows[-1]["body"]).get("state") in follow.ENDED:
            yield f"the audit names its rows up to {named}, and it ends with {len(rows)}"
