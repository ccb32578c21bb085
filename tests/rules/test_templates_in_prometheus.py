"""Annotations read as promtool fills them in: it runs the rules and compares our texts with its own."""

# ruff: noqa: E501  # A template is one line.

import json
import subprocess
from pathlib import Path

import pytest

from watchbill_collector.rules.template import Template

pytestmark = pytest.mark.real("promtool")

LABELS = {"__name__": "x", "instance": "web-1.example.org:9100", "job": "node", "path": "/a b/<c>"}
URL = "http://watch.example:7480"

TEMPLATES = [
    "{{ $value }} {{ humanize $value }} {{ humanize1024 $value }} {{ humanizeDuration $value }}",
    "{{ humanizePercentage $value }} {{ humanizeTimestamp $value }}",
    "{{ humanize 0.00001234 }} {{ humanize 12345.678 }} {{ humanize 1e30 }} {{ humanize -5e-5 }}",
    "{{ humanize1024 0.5 }} {{ humanize1024 -2048.0 }} {{ humanize1024 1e30 }}",
    "{{ humanizeDuration 0.0 }} {{ humanizeDuration 1e-10 }} {{ humanizeDuration 59.9999 }}",
    "{{ humanizeDuration 60.5 }} {{ humanizeDuration -90061.5 }} {{ humanizeDuration `61` }}",
    "{{ humanizePercentage 0.1234567 }} {{ humanizePercentage 12 }} {{ humanizeTimestamp -1.5 }}",
    "{{ title `aa bb-cc dd_ee it's` }} {{ toUpper `aé` }} {{ toLower `AÉ` }}",
    "{{ stripPort `a:80` }} {{ stripPort `[::1]:80` }} {{ stripPort `::1` }} {{ stripPort `a:` }}",
    "{{ stripPort `a:http` }} {{ stripPort `:80` }} {{ stripPort `[::1]` }} {{ stripPort `a]:1` }}",
    "{{ stripDomain `a.b.c:80` }} {{ stripDomain `1.2.3.4:5` }} {{ stripDomain `::1` }} {{ stripDomain `a.b` }}",
    "{{ match `a.*` `bab` }} {{ match `^a$` `b` }} {{ if match `(?i)WEB` $labels.instance }}y{{ end }}",
    "{{ reReplaceAll `(a)(b)?` `<$1$2>` `abxa` }} {{ reReplaceAll `a` `$$` `bab` }}",
    "{{ reReplaceAll `a(?P<n>.)` `${n}!` `axay` }} {{ reReplaceAll `x` `\\\\1` `axb` }} {{ reReplaceAll `x` `$9` `axb` }}",
    "{{ reReplaceAll `^` `-` `ab` }} {{ reReplaceAll `b*` `-` `abc` }} {{ reReplaceAll `(.)` `$1x` `ab` }}",
    '{{ graphLink `up == 1` }} {{ tableLink `up{a="b c"}` }} {{ $externalURL }}',
    "{{ args 1 `b` 3.5 }} {{ (args 1 `b`).arg1 }} {{ safeHtml `<b>&` }} {{ html $labels.path }} {{ urlquery $labels.path }}",
    "{{ parseDuration `1h30m` }} {{ parseDuration `5m` | humanizeDuration }}",
    '{{ printf "%d %5d|%-5d|%05d %x %X %o %b %c %U" 42 42 42 42 255 255 8 5 65 65 }}',
    '{{ printf "%s|%10s|%-10s|%q|%v|%.2s|%x|%5.1s|" "ab" "cd" "ef" "g\\"h" "ij" "klm" "hi" "xyz" }}',
    '{{ printf "%f %.2f %8.3f|%-8.1f|%+.1f %e %.3e %g %G %6.2f%%" 3.14159 2.5 1.0 2.0 3.0 12345.678 0.00012 1e21 1e-7 9.5 }}',
    '{{ printf "%5t|%08.3f|% d|%+d|%#x|%T" true 3.14159 5 6 255 1.5 }} {{ printf "%t %v %v" true false nil }}',
    '{{ printf "%s" $value }} {{ printf "%d" 3.0 }} {{ printf "%f" 3 }} {{ printf "%.1f" "x" }}',
    '{{ printf "%[2]s %[1]s" "a" "b" }} {{ printf "%*d" 5 3 }} {{ printf "%z" 1 }} {{ printf "100%" }} {{ printf "%s" }}',
    '{{ printf "a" 1 "b" }} {{ $labels.job | printf "%s-%s" "a" | toUpper }}',
    "{{ range $k, $v := $labels }}{{ $k }}={{ $v }};{{ end }}{{ range $labels }}{{ . }},{{ end }}",
    "{{ range $k, $v := $labels }}{{ if eq $k `job` }}{{ continue }}{{ end }}{{ $k }} {{ end }}",
    "{{ range $k, $v := $labels }}{{ $k }}{{ break }}{{ end }}{{ range $externalLabels }}x{{ else }}none{{ end }}",
    "{{ if eq $labels.job `node` `x` }}a{{ end }}{{ if ne 1 2 }}c{{ end }}{{ if lt 1.5 2.5 }}d{{ end }}{{ if ge 1 2 }}g{{ end }}",
    "{{ if and true 0 }}a{{ else }}b{{ end }}{{ and 1 2 }}{{ or 0 `` `z` }}{{ not 1 }}{{ not `` }}",
    "{{ with $labels.job }}{{ . }}{{ else }}n{{ end }}{{ with $labels.none }}{{ . }}{{ else }}n{{ end }}",
    "{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ end }}{{ $x }}{{ $y := `a` }}{{ if true }}{{ $y := `b` }}{{ $y }}{{ end }}{{ $y }}",
    "{{ len `aé` }} {{ len $labels }} {{ index $labels `job` }} {{ index $labels `none` }}",
    "{{ print 1 2 `a` `b` 3 4.5 true }} {{ 1_000 }} {{ 0b11 }} {{ 0o17 }} {{ 'a' }} {{ `raw\\n` }}",
    '{{ 1000000.0 }} {{ 123456789.0 }} {{ 0.00001 }} {{ "a\\tb\\u00e9\\x41" }} {{ .Labels.job }} {{ $.Value }}',
    "{{- ` a ` -}}   {{/* c */}} x {{- /* d */ -}} y",
    "{{ if $value }}t{{ else }}f{{ end }} {{ if 0.0 }}t{{ else }}f{{ end }} {{ if $labels }}t{{ end }}",
]


@pytest.mark.parametrize("value", [1_234_567.25, -0.5, 0.0])
def test_promtool_fills_in_the_same_texts(tmp_path: Path, value: float) -> None:
    texts = [Template.parse(source).expand(LABELS, value, external_url=URL) for source in TEMPLATES]
    assert not [text for text in texts if text.startswith("<error")]
    labels = {name: text for name, text in LABELS.items() if name != "__name__"}
    rules = [
        {"alert": f"A{number}", "expr": "x", "annotations": {"text": source}}
        for number, source in enumerate(TEMPLATES)
    ]
    inner = ",".join(f"{name}={json.dumps(text)}" for name, text in labels.items())
    test = {
        "interval": "1m",
        "external_url": URL,
        "input_series": [{"series": f"x{{{inner}}}", "values": f"{value!r} {value!r}"}],
        "alert_rule_test": [
            {
                "eval_time": "1m",
                "alertname": f"A{number}",
                "exp_alerts": [{"exp_labels": labels, "exp_annotations": {"text": text}}],
            }
            for number, text in enumerate(texts)
        ],
    }
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "g", "rules": rules}]}))
    (tmp_path / "test.yml").write_text(
        json.dumps({"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": [test]})
    )
    done = subprocess.run(
        ["promtool", "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
