"""`watchbill-collector runbooks lint`: judge runbooks' files without a running collector.

Nothing is known here of hosts, alerts, backups and channels, so only the files themselves are judged; `watchbill
runbooks lint` asks the collector, which knows.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from watchbill.commandline import FAILED, OK, USAGE
from watchbill.errors import Problem
from watchbill.files import UnreadableFile, read_bounded
from watchbill_collector.runbooks.findings import ERROR, Finding, from_problem
from watchbill_collector.runbooks.lint import judge_text
from watchbill_collector.runbooks.model import Runbook
from watchbill_collector.runbooks.reading import FILE_BYTES_MAX

OFFLINE_NOTE: Final = "hosts, alerts and channels were not asked; watchbill runbooks lint does that"


def lint(paths: Sequence[Path], *, as_json: bool) -> int:
    """Judge files: 0 nothing is wrong, 1 something is, 2 a file is no runbook."""
    judged = [(path, *_judge(path)) for path in paths]
    code = OK
    for _, runbook, findings in judged:
        if runbook is None:
            code = USAGE
        elif code == OK and any(one.severity == ERROR for one in findings):
            code = FAILED
    if as_json:
        files = [
            {
                "file": str(path),
                "runbook": None if runbook is None else runbook.name,
                "digest": None if runbook is None else runbook.digest,
                "findings": [asdict(one) for one in findings],
            }
            for path, runbook, findings in judged
        ]
        print(json.dumps({"ok": code == OK, "files": files}, indent=2))
        return code
    for path, runbook, findings in judged:
        for one in findings:
            print(one)
        if runbook is not None and not any(one.severity == ERROR for one in findings):
            print(f"{path}: ok, {len(list(runbook.walk()))} steps; {OFFLINE_NOTE}")
    return code


def _judge(path: Path) -> tuple[Runbook | None, list[Finding]]:
    try:
        content = read_bounded(path, FILE_BYTES_MAX)
    except UnreadableFile as error:
        return None, [from_problem(Problem(str(path), 0, "", error.got, "a readable runbook"))]
    return judge_text(str(path), content)
