"""Rule files with random mistakes: what Debian's promtool refuses is refused here, and named with its line.

What is accepted there and refused here is refused by name too: it is bounded below, for it has to stay rare.
"""

import json
import random
import re
import subprocess
from pathlib import Path

import pytest

from watchbill_collector.rules import Source, check

pytestmark = pytest.mark.real("promtool")

FILE = """\
groups:
- name: one
  interval: 30s
  limit: 10
  rules:
  - record: job:x:rate5m
    expr: sum by (job) (rate(x_total[5m]))
    labels:
      team: a
  - alert: Down
    expr: up == 0
    for: 5m
    labels:
      severity: page
      who: '{{ $labels.instance }}'
    annotations:
      summary: '{{ $labels.instance }} is {{ $value | humanize }}'
      text: "plain: text"
- name: two
  rules:
  - alert: Full
    expr: |
      node_filesystem_avail_bytes
        / node_filesystem_size_bytes < 0.1
    labels: {severity: critical}
    annotations: {summary: x}
"""
VALUES = (
    *(
        "",
        "null",
        "~",
        "1",
        "1.5",
        "-1",
        "true",
        "yes",
        "[]",
        "{}",
        "[a]",
        "{a: b}",
        "'x'",
        '"x"',
        "5",
        "1h30m",
    ),
    *(
        "30s1h",
        "0",
        "0s",
        "1y",
        "10000000000",
        "1e3",
        "0x10",
        "abc",
        "a b",
        "a-b",
        "\u00e9",
        "'{{'",
        "'{{ $x }}'",
    ),
    *(
        "'{{ $labels.a }}'",
        "'{{ end }}'",
        "'{{ printf }}'",
        "'{{ nope }}'",
        "'{{ if }}'",
        "up",
        "up ==",
        "1 == 1",
    ),
    *(
        "up[5m]",
        "'\"a\"'",
        "sum(",
        "rate(up)",
        "&a x",
        "*a",
        "!!str 5",
        "!!int x",
        "!x y",
        "|",
        "# c",
        "<<",
        "'5'",
    ),
    *(
        "2023-01-01",
        "'a\\nb'",
        '"a\\u0000b"',
        '"\\xff"',
        "@",
        "%",
        "`",
        "?",
        "- a",
        "a: b",
        ".inf",
        ".nan",
        "No",
    ),
    *("'for'", "up # comment", "up offset 5m", "topk(1, up)", '{__name__="x"}', "''", "' '", "time()", "NaN"),
)
KEYS = (
    *(
        "name",
        "interval",
        "limit",
        "rules",
        "record",
        "alert",
        "expr",
        "for",
        "labels",
        "annotations",
        "groups",
    ),
    *(
        "foo",
        "Expr",
        "EXPR",
        " expr",
        "'expr'",
        "? expr",
        "__name__",
        "alertname",
        "1a",
        "a-b",
        "\u00e9",
        "''",
        "job",
    ),
)
SEEDS = (1, 2, 3)
FILES_A_SEED = 150


def _mistaken(rng: random.Random) -> str:
    lines = FILE.rstrip("\n").split("\n")
    for _ in range(rng.choice((1, 1, 1, 2))):
        at = rng.randrange(len(lines))
        line = lines[at]
        key, colon, value = line.partition(":")
        indent = line[: len(line) - len(line.lstrip(" -"))]
        chosen = rng.random()
        if chosen < 0.12 and len(lines) > 1:
            lines.pop(at)
        elif chosen < 0.2:
            lines.insert(at, line)
        elif chosen < 0.3:
            lines[at] = f" {line}" if rng.random() < 0.5 else line[1:]
        elif chosen < 0.65 and colon:
            lines[at] = f"{key}: {rng.choice(VALUES)}"
        elif chosen < 0.85 and colon:
            lines[at] = f"{indent}{rng.choice(KEYS)}:{value}"
        else:
            lines.insert(at, f"{indent.replace('-', ' ')}{rng.choice(KEYS)}: {rng.choice(VALUES)}")
    return "\n".join(lines) + "\n"


def _refused(files: list[Path]) -> dict[str, list[str]]:
    """What promtool says of those that it refuses, by name: one process for all."""
    done = subprocess.run(
        ["promtool", "check", "rules", "--lint=none", *map(str, files)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    told = re.split(r"^Checking ", done.stdout, flags=re.MULTILINE)[1:]
    assert len(told) == len(files)
    names = {Path(part.split("\n", 1)[0]).name for part in told if "SUCCESS" not in part}
    return {name: [line for line in done.stderr.splitlines() if f"/{name}:" in line] for name in names}


@pytest.mark.parametrize("seed", SEEDS)
def test_random_mistakes_are_found_as_promtool_finds_them(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    files = []
    for number in range(FILES_A_SEED):
        files.append(tmp_path / f"{number}.yml")
        files[-1].write_text(_mistaken(rng))
    refused, stricter = _refused(files), []
    for file in files:
        problems = check([Source(file.name, file.read_bytes())])
        for problem in problems:
            assert problem.file == file.name
            assert problem.got
            assert problem.wanted
        if file.name in refused:
            assert problems, f"seed {seed}: {refused[file.name]}\n{file.read_text()}"
        elif problems:
            stricter.append(str(problems[0]))
    assert len(refused) > FILES_A_SEED // 2
    assert len(stricter) < FILES_A_SEED // 20, stricter


TEMPLATES = (
    "{{ $labels.instance }} is {{ $value | humanize }}",
    "{{ if gt $value 5.0 }}a{{ else if eq $labels.job `x` }}b{{ else }}c{{ end }}",
    "{{ range $k, $v := $labels }}{{ $k }}={{ $v }}{{ else }}n{{ end }}",
    "{{ with query `up` }}{{ . | first | value }}{{ end }}",
    "{{ $x := 1 }}{{ $x }}{{/* c */}} {{- ` a ` -}} t",
    '{{ printf "%.2f %s" $value ($labels.x | toUpper) }}',
    "{{ range query `up` }}{{ .Labels.instance }}{{ break }}{{ end }}",
)
PIECES = (
    *(
        "{{",
        "}}",
        "{{-",
        "-}}",
        "$labels",
        "$value",
        ".",
        "$x",
        ":=",
        "=",
        "if",
        "else",
        "end",
        "range",
        "with",
    ),
    *(
        "break",
        "continue",
        "printf",
        "humanize",
        "query",
        "first",
        "(",
        ")",
        "|",
        "`a`",
        '"b"',
        "1",
        "1.5",
        "'c'",
    ),
    *(
        ",",
        "$labels.job",
        ".Labels.x",
        "and",
        "not",
        "eq",
        "len",
        "index",
        "true",
        "/* c */",
        "text",
        " ",
        "define",
    ),
    *(
        "template",
        "$",
        "-1",
        "0x1F",
        "1e3",
        "else if",
        ".5",
        "..",
        "$labels.",
        "'",
        '"',
        "`",
        "\\",
        "nope",
        "{",
        "}",
    ),
)


def _mistaken_template(rng: random.Random) -> str:
    pieces = re.findall(r"\{\{-?|-?\}\}|`[^`]*`|\"[^\"]*\"|[\w.$]+|\s+|.", rng.choice(TEMPLATES))
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(pieces))
        chosen = rng.random()
        if chosen < 0.4:
            pieces.insert(at, rng.choice(PIECES))
        elif chosen < 0.65 and len(pieces) > 1:
            pieces.pop(at)
        else:
            pieces[at] = rng.choice(PIECES)
    return "".join(pieces)


@pytest.mark.parametrize("seed", SEEDS)
def test_templates_with_random_mistakes_are_refused_as_promtool_refuses_them(
    tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    files, accepted = [], 0
    for number in range(2 * FILES_A_SEED):
        rule = {"alert": "A", "expr": "up", "annotations": {"text": _mistaken_template(rng)}}
        files.append(tmp_path / f"{number}.yml")
        files[-1].write_text(json.dumps({"groups": [{"name": "g", "rules": [rule]}]}))
    refused = _refused(files)
    for file in files:
        problems = check([Source(file.name, file.read_bytes())])
        if file.name in refused:
            assert problems, f"seed {seed}: {refused[file.name]}\n{file.read_text()}"
        accepted += not problems
    assert len(refused) > FILES_A_SEED
    assert accepted > FILES_A_SEED // 5
