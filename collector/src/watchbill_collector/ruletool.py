"""`watchbill-collector rules`: judge unit-test files, and show the stock pack, without a running collector."""

import json
from collections.abc import Sequence
from pathlib import Path

from watchbill.commandline import FAILED, OK, USAGE
from watchbill.errors import ConfigError, Problem
from watchbill_collector.rules.stock import PREFIX, stock_files, stock_names
from watchbill_collector.rulestest import judge_file
from watchbill_collector.rulestest.telling import failure_text, judged_document


def test(paths: Sequence[Path], *, as_json: bool) -> int:
    """Judge promtool's unit-test files: 0 all is as expected, 1 something is not, 2 a file cannot be used."""
    judged = [judge_file(path) for path in paths]
    code = OK if all(each.passed for each in judged) else FAILED
    if any(each.problems for each in judged):
        code = USAGE
    if as_json:
        files = [judged_document(each) for each in judged]
        print(json.dumps({"passed": code == OK, "files": files}, indent=2))
        return code
    for each in judged:
        for warning in each.warnings:
            print(f"warning: {warning}")
        for problem in each.problems:
            print(problem)
        for failure in each.failures:
            print(failure_text(failure))
        if each.problems:
            print(f"{each.file}: not judged")
        elif each.failures:
            print(f"{each.file}: {len(each.failures)} of {each.expectations} expectations failed")
        else:
            print(f"{each.file}: {each.expectations} expectations in {each.tests} tests, all as expected")
    return code


def stock(names: Sequence[str], *, as_json: bool) -> int:
    """Print files of the stock pack, or list them all when none is named."""
    files = stock_files()
    wrong = [name for name in names if name not in files]
    if wrong:
        wanted = "one of " + ", ".join(files)
        raise ConfigError(
            [Problem(PREFIX + name, 0, "", "no such file of the stock pack", wanted) for name in wrong]
        )
    if names:
        print("".join(files[name].content.decode() for name in names), end="")
        return OK
    alerts = {name: stock_names(source) for name, source in files.items()}
    if as_json:
        print(
            json.dumps(
                {"files": [{"name": name, "alerts": rules} for name, rules in alerts.items()]}, indent=2
            )
        )
        return OK
    for name, rules in alerts.items():
        print(f"{name:12} {', '.join(rules)}")
    return OK
