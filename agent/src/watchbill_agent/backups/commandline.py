"""`watchbill-agent backup ...`: what it takes, and what it does. Each command imports what it needs.

`backup wrap` is a program around another program: whatever is wrong with its own arguments is said on standard error
and keeps no backup from being made, as long as it can be told which command is meant.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from watchbill.commandline import FAILED, OK, Parser, add_command, home_option, say
from watchbill_agent.entry import OWN_FAILURE

if TYPE_CHECKING:
    from watchbill.homes import Homes

PROGRAM: Final = "watchbill-agent"
DESCRIPTOR_MIN, DESCRIPTOR_MAX = 3, 255
TAIL_BYTES_MAX: Final = 32 * 1024
"""Read of a file for `--tail`; its end is kept."""


def add_commands(backup: Parser) -> None:
    """The commands of the group."""
    actions = backup.add_subparsers(title="what to do", metavar="ACTION", required=True)
    for name, command, help_ in (
        ("list", _list, "list this host's jobs and what was seen of them last"),
        ("look", _look, "look at a job's repositories now, as this user; nothing is sent"),
    ):
        added = add_command(actions, name, help_, command, json=True)
        if name == "look":
            added.add_argument("job", metavar="JOB", help="its name in backups.d")
            added.add_argument("--copy", metavar="NAME", help="only this copy")
    _add_report(add_command(actions, "report", "say how a backup went", _report))
    _add_manifest(
        actions.add_parser(
            "manifest",
            parents=[home_option()],
            help="note what files look like; compare restored ones with that",
            description="Notes what a sample of files looks like, and compares restored files with it.",
        )
    )
    # For the help of the group; whoever calls it reaches `wrap` before there is a parser.
    actions.add_parser("wrap", add_help=False, help="run a backup's command and tell how it went")


def _add_report(parser: argparse.ArgumentParser) -> None:
    def number(option: str, help_: str, dest: str) -> None:
        parser.add_argument(option, metavar="N", type=int, help=help_, dest=dest)

    parser.add_argument("job", metavar="JOB", help="its name in backups.d")
    parser.add_argument(
        "--outcome", required=True, choices=("ok", "partial", "failed", "running"), help="how it went"
    )
    parser.add_argument("--kind", default="run", choices=("run", "verify", "restore"), help="of what; a run")
    parser.add_argument(
        "--level", default="", choices=("structure", "data", "restore"), help="what was proved"
    )
    run = parser.add_mutually_exclusive_group()
    run.add_argument(
        "--run", metavar="NAME", default="", help="reports of one run have the same, and no other run ever"
    )
    run.add_argument(
        "--run-of", metavar="PID", default="", help="the run is that of this process, such as $$ in a script"
    )
    parser.add_argument("--started", metavar="TIME", default="", help="with its zone, or seconds since 1970")
    parser.add_argument("--finished", metavar="TIME", default="", help="now, without it")
    parser.add_argument(
        "--point", metavar="TIME", default="", help="what the data stands for; --started without it"
    )
    parser.add_argument("--exit-code", metavar="N", type=int, help="of the backup's command", dest="code")
    number("--bytes", "what was backed up", "bytes_source")
    number("--bytes-added", "what was new of it", "bytes_added")
    number("--bytes-stored", "what the backup takes", "bytes_stored")
    number("--files", "files in the backup", "files")
    number("--files-failed", "files that could not be read", "files_failed")
    parser.add_argument("--snapshot", metavar="ID", default="", help="as the tool calls what was made")
    parser.add_argument("--copy", metavar="NAME", default="", help="which copy it is of")
    parser.add_argument("--tool", metavar="NAME", default="", help="what made it")
    parser.add_argument("--tool-version", metavar="TEXT", default="", help="its version")
    parser.add_argument("--reason", metavar="WORD", default="", help="such as repository-locked")
    parser.add_argument("--error", metavar="TEXT", action="append", default=[], help="may be repeated")
    parser.add_argument(
        "--tail", metavar="FILE", default="", help="output of which the end is kept; - for standard input"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")


# ---------------------------------------------------------------- wrap


class WrapParser(Parser):
    """Ends with OWN_FAILURE: any other code would be taken for the command's."""

    def error(self, message: str) -> NoReturn:
        """Say it and end."""
        self.exit(OWN_FAILURE, f"{self.prog}: {message}\nTry: {self.prog} --help\n")


def wrap_parser() -> WrapParser:
    """What stands before `--`."""
    parser = WrapParser(
        prog=f"{PROGRAM} backup wrap",
        usage="%(prog)s [options] JOB -- COMMAND...",
        parents=[home_option()],
        description="Runs a backup's command, passes on what it prints and how it ends, and tells the collector.",
        epilog=f"Ends as the command does; {OWN_FAILURE} to 127 are failures of its own. "
        "Of commands joined by a pipe a shell tells how the last one ended: set -o pipefail.",
    )
    parser.add_argument("job", metavar="JOB", help="its name in backups.d")
    for option, help_ in (
        ("--fail-if", "it failed if it prints a line like this; may be repeated"),
        ("--partial-if", "it is not whole if it prints a line like this"),
        ("--ok-if", "it is ok if, and only if, it prints a line like this"),
    ):
        parser.add_argument(option, metavar="REGEX", action="append", default=[], help=help_)
    parser.add_argument(
        "--expect-bytes",
        metavar="FD",
        type=_descriptor,
        default=0,
        help="the command writes on this descriptor how many bytes it backed up; none is a failure",
    )
    parser.add_argument(
        "--require-record",
        action="store_true",
        help=f"without a record no backup: end with {OWN_FAILURE} where it cannot be kept",
    )
    parser.add_argument(
        "--manifest",
        metavar="PATH",
        action="append",
        default=[],
        help="note what a sample of the files under it looks like, to prove a restore by; may be repeated",
    )
    parser.add_argument(
        "--manifest-exclude", metavar="GLOB", action="append", default=[], help="paths that are not backed up"
    )
    return parser


def _descriptor(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 4 else 0
    if not DESCRIPTOR_MIN <= number <= DESCRIPTOR_MAX:
        raise argparse.ArgumentTypeError(f"got {text[:20]!r}, wanted {DESCRIPTOR_MIN} to {DESCRIPTOR_MAX}")
    return number


def wrap(words: Sequence[str], command: Sequence[str]) -> int:
    """`backup wrap` with what stands before `--` and behind it."""
    arguments = wrap_parser().parse_args(words)
    if not command:
        say(PROGRAM, f"put -- and the command behind it: {PROGRAM} backup wrap {arguments.job} -- COMMAND...")
        return OWN_FAILURE
    from watchbill.homes import Homes
    from watchbill_agent.backups.wrap import Wrap, Wrapping

    wrapping = Wrapping(
        job=arguments.job,
        argv=command,
        patterns={"fail_if": arguments.fail_if, "partial_if": arguments.partial_if, "ok_if": arguments.ok_if},
        count_descriptor=arguments.expect_bytes,
        require_record=arguments.require_record,
        manifest=[str(Path(path).absolute()) for path in arguments.manifest],
        excluded=arguments.manifest_exclude,
    )
    return Wrap(wrapping, Homes.resolve("agent", getattr(arguments, "home", None))).run()


# ---------------------------------------------------------------- manifest


def _add_manifest(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="what to do", metavar="ACTION", required=True)
    make = actions.add_parser(
        "make", parents=[home_option()], help="of files that were backed up, for tools that are not wrapped"
    )
    make.add_argument("job", metavar="JOB", help="its name in backups.d")
    make.add_argument("paths", metavar="PATH", nargs="+", help="what is backed up")
    make.add_argument("--exclude", metavar="GLOB", action="append", default=[], help="paths that are not")
    make.add_argument("--started", metavar="TIME", default="", help="when the backup began; now, without it")
    make.add_argument("--json", action="store_true", help="print one JSON document")
    make.set_defaults(command=_manifest_make)
    check = actions.add_parser(
        "check", parents=[home_option()], help="compare restored files, and report the restore"
    )
    check.add_argument("job", metavar="JOB", help="its name in backups.d")
    check.add_argument("--at", metavar="DIR", type=Path, required=True, help="where the files were restored")
    check.add_argument(
        "--strip", metavar="DIR", default="", help="what DIR was at the source; / without it, or the root"
    )
    check.add_argument("--file", metavar="FILE", type=Path, help="another manifest than the newest")
    check.add_argument(
        "--partial", action="store_true", help="only some of it was restored; that is compared"
    )
    check.add_argument("--json", action="store_true", help="print one JSON document")
    check.set_defaults(command=_manifest_check)


def _manifest_make(arguments: argparse.Namespace) -> int:
    import json
    import time

    from watchbill.errors import UsageError
    from watchbill_agent.backups.manifest import Shelf, digest_of
    from watchbill_agent.backups.manifest_make import made
    from watchbill_agent.backups.report import read_time
    from watchbill_agent.backups.words import job_name_fault

    if fault := job_name_fault(arguments.job):
        raise UsageError(f"JOB: {fault}")
    started_ms = read_time("--started", arguments.started) or time.time_ns() // 1_000_000
    roots = [str(Path(path).absolute()) for path in arguments.paths]
    manifest, content = made(arguments.job, roots, arguments.exclude, started_ms)
    path = Shelf(_homes(arguments).var).put(manifest, content)
    counts, digest = manifest.counts, digest_of(content)
    if arguments.json:
        document = {"path": str(path), "digest": digest, "files": counts.files, "bytes": counts.bytes}
        print(json.dumps({**document, "sampled": len(manifest.sample), "whole": counts.whole}, indent=2))
    else:
        more = "" if counts.whole else ", and more than could be counted in time"
        print(
            f"{path}: {counts.files} files, {counts.bytes} bytes{more}; {len(manifest.sample)} in the sample"
        )
    return OK


def _manifest_check(arguments: argparse.Namespace) -> int:
    import json
    import time

    from watchbill.errors import StorageError, UsageError
    from watchbill_agent.backups.drop import Drop
    from watchbill_agent.backups.manifest import Shelf, load
    from watchbill_agent.backups.manifest_check import check, record_of
    from watchbill_agent.backups.words import job_name_fault

    if fault := job_name_fault(arguments.job):
        raise UsageError(f"JOB: {fault}")
    if not arguments.at.is_dir():
        raise UsageError(f"--at: got {arguments.at}, wanted a directory")
    homes = _homes(arguments)
    kept = load(arguments.file) if arguments.file else Shelf(homes.var).newest(arguments.job)
    if kept.manifest.job != arguments.job:
        raise UsageError(f"--file: got a manifest of {kept.manifest.job!r}, wanted one of {arguments.job!r}")
    checked = check(kept.manifest, arguments.at.absolute(), arguments.strip, partial=arguments.partial)
    record = record_of(kept, checked, time.time_ns() // 1_000_000)
    code = OK if checked.ok else FAILED
    try:
        where = Drop(homes).hand_over(json.loads(record.to_json()))
    except StorageError as exc:
        say(PROGRAM, f"the report on {record.job} is NOT kept: {exc}")
        where, code = "", FAILED
    if arguments.json:
        counted = {"compared": checked.compared, "bad": checked.bad, "missing": checked.missing}
        document = {
            "ok": checked.ok,
            **counted,
            "unchecked": checked.unchecked,
            "errors": list(checked.errors),
        }
        print(
            json.dumps(
                {**document, "manifest": str(kept.path), "digest": kept.digest, "kept": where}, indent=2
            )
        )
        return code
    print(
        f"{record.job}: {checked.compared} files compared, {checked.bad} differ, {checked.missing} are missing"
    )
    for error in checked.errors:
        print(f"  {error}")
    return code


# ---------------------------------------------------------------- report


def _homes(arguments: argparse.Namespace) -> "Homes":
    from watchbill.homes import Homes

    return Homes.resolve("agent", getattr(arguments, "home", None))


def _list(arguments: argparse.Namespace) -> int:
    import json
    import time

    from watchbill_agent.backups.config import read_jobs
    from watchbill_agent.backups.listing import lines, listed

    homes = _homes(arguments)
    now_ms = time.time_ns() // 1_000_000
    document = listed(read_jobs(homes.etc), homes.run, now_ms)
    if arguments.json:
        print(json.dumps(document, indent=2))
    else:
        for line in lines(document, now_ms):
            print(line)
    return OK


def _look(arguments: argparse.Namespace) -> int:
    import json

    from watchbill_agent.backups.config import read_jobs
    from watchbill_agent.backups.listing import all_read, look_lines, look_now

    records = look_now(read_jobs(_homes(arguments).etc), arguments.job, arguments.copy)
    if arguments.json:
        print(json.dumps({"looks": [json.loads(record.to_json()) for record in records]}, indent=2))
    else:
        for line in look_lines(records):
            print(line)
    return OK if all_read(records) else FAILED


def _report(arguments: argparse.Namespace) -> int:
    import json
    import time

    from watchbill.errors import StorageError
    from watchbill_agent.backups.drop import Drop
    from watchbill_agent.backups.jobfile import read_job
    from watchbill_agent.backups.redact import Redactor, known_secrets
    from watchbill_agent.backups.report import Said, process_run, record_of

    said = Said(
        job=arguments.job,
        outcome=arguments.outcome,
        kind=arguments.kind,
        run=process_run(arguments.run_of) if arguments.run_of else arguments.run,
        copy=arguments.copy,
        started=arguments.started,
        finished=arguments.finished,
        point=arguments.point,
        exit_code=arguments.code,
        tool=arguments.tool,
        tool_version=arguments.tool_version,
        snapshot=arguments.snapshot,
        bytes_source=arguments.bytes_source,
        bytes_added=arguments.bytes_added,
        bytes_stored=arguments.bytes_stored,
        files=arguments.files,
        files_failed=arguments.files_failed,
        reason=arguments.reason,
        errors=arguments.error,
        tail=_end_of(arguments.tail),
        level=arguments.level,
    )
    record = record_of(said, time.time_ns() // 1_000_000, Redactor(known_secrets(os.environ, ())))
    try:
        kept = Drop(_homes(arguments)).hand_over(json.loads(record.to_json()))
    except StorageError as exc:
        say(PROGRAM, f"the report on {record.job} is NOT kept: {exc}")
        return FAILED
    if stranger := read_job(_homes(arguments).etc, record.job).stranger(record.job):
        say(PROGRAM, stranger)
    if arguments.json:
        print(json.dumps({"kept": kept, "record": record.record_id, "run": record.run_id}, indent=2))
    else:
        where = "by the agent" if kept == "agent" else "in a file; the agent takes it when it runs"
        print(f"{record.job}: {record.outcome} is kept {where}; run {record.run_id}")
    return OK


def _end_of(path: str) -> str:
    """The last of a file or of standard input, bounded."""
    if not path:
        return ""
    if path == "-":
        content = b""
        while piece := sys.stdin.buffer.read(TAIL_BYTES_MAX):
            content = (content + piece)[-TAIL_BYTES_MAX:]
    else:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES_MAX))
            content = file.read(TAIL_BYTES_MAX)
    return content.decode("utf-8", "replace")
