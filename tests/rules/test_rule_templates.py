"""Annotations read as they do under Prometheus."""

import math

import pytest

from watchbill_collector.rules.template import Template
from watchbill_collector.rules.template_expressions import BadTemplate
from watchbill_collector.rules.template_functions import TEXT_CHARS_MAX

LABELS = {"instance": "web-1:9100", "job": "node", "n": "12.5"}


def _text(source: str, value: float = 1234567.0) -> str:
    return Template.parse(source).expand(
        LABELS, value, external_labels={"site": "main"}, external_url="http://w"
    )


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("plain", "plain"),
        ("{{ $labels.instance }} of {{$labels.job}}", "web-1:9100 of node"),
        ("{{ .Labels.job }} {{ .Value }}", "node 1.234567e+06"),
        ("{{ $labels.nothing }}.", "."),
        ("{{ $labels }}", "map[instance:web-1:9100 job:node n:12.5]"),
        ("{{ $value }}", "1.234567e+06"),
        ("{{ $value | humanize }}", "1.235M"),
        ("{{ humanize1024 $value }}B", "1.177MiB"),
        ("{{ $value | humanizeDuration }}", "14d 6h 56m 7s"),
        ("{{ $value | humanizePercentage }}", "1.235e+08%"),
        ("{{ 1700000000.5 | humanizeTimestamp }}", "2023-11-14 22:13:20.5 +0000 UTC"),
        ('{{ printf "%.2f" $value }}', "1234567.00"),
        ('{{ $value | printf "%.1e" }}', "1.2e+06"),
        ('{{ printf "%s is %5.1f%% %q" $labels.job 12.34 "x" }}', 'node is  12.3% "x"'),
        ('{{ printf "%d" $value }}', "%!d(float64=1.234567e+06)"),
        ('{{ printf "%s" }}', "%!s(MISSING)"),
        ("{{ if gt $value 5.0 }}high{{ else }}low{{ end }}", "high"),
        ("{{ if lt $value 5.0 }}a{{ else if eq $labels.job `node` }}b{{ else }}c{{ end }}", "b"),
        ("{{ if $labels.nothing }}a{{ end }}b", "b"),
        ("{{ with $labels.job }}<{{ . }}>{{ end }}", "<node>"),
        ("{{ if and (eq $labels.job `node`) (not false) }}yes{{ end }}", "yes"),
        ("{{ if or $labels.nothing $labels.job }}{{ or $labels.nothing $labels.job }}{{ end }}", "node"),
        ("a  {{- $labels.job -}}  b", "anodeb"),
        ("{{/* a note */}}x", "x"),
        ("{{ $x := $labels.job }}{{ $x | toUpper }}", "NODE"),
        ('{{ reReplaceAll "(.*):.*" "$1" $labels.instance }}', "web-1"),
        ('{{ if match "^web" $labels.instance }}web{{ end }}', "web"),
        ("{{ stripPort $labels.instance }} {{ title `some words` }}", "web-1 Some Words"),
        ('{{ stripDomain "db.example.org:80" }}', "db:80"),
        ("{{ $externalLabels.site }} {{ externalURL }} {{ $externalURL }}", "main http://w http://w"),
        ('{{ index $labels "job" }} {{ len $labels.job }}', "node 4"),
        ("{{ humanize $labels.n }}", "12.5"),
        ('{{ print "a" 1 2 "b" }}', "a1 2b"),
        ('{{ "a\\"b" }}', 'a"b'),
        ("100 %", "100 %"),
    ],
)  # fmt: skip
def test_the_common_forms(source: str, text: str) -> None:
    assert _text(source) == text


@pytest.mark.parametrize(
    ("source", "value", "text"),
    [
        ("{{ $value }}", 0.1, "0.1"),
        ("{{ $value }}", 100000.0, "100000"),
        ("{{ $value }}", 1e21, "1e+21"),
        ("{{ $value }}", 0.00001, "1e-05"),
        ("{{ $value }}", -0.0, "-0"),
        ("{{ $value }}", math.nan, "NaN"),
        ("{{ $value }}", math.inf, "+Inf"),
        ("{{ humanize $value }}", 0.0, "0"),
        ("{{ humanize $value }}", 0.00012, "120u"),
        ("{{ humanize $value }}", -math.inf, "-Inf"),
        ("{{ humanize1024 $value }}", 1023.0, "1023"),
        ("{{ humanizeDuration $value }}", 0.0123, "12.3ms"),
        ("{{ humanizeDuration $value }}", -65.0, "-1m 5s"),
        ("{{ humanizeDuration $value }}", 59.25, "59.25s"),
        ("{{ humanizeDuration $value }}", math.nan, "NaN"),
        ("{{ humanizePercentage $value }}", 0.1234567, "12.35%"),
        ("{{ humanizeTimestamp $value }}", math.inf, "+Inf"),
        ("{{ humanizeTimestamp $value }}", 1e300, "1e+300"),
    ],
)  # fmt: skip
def test_numbers_are_written_as_go_writes_them(source: str, value: float, text: str) -> None:
    assert _text(source, value) == text


@pytest.mark.parametrize(
    "source",
    ["{{ humanize $labels.job }}", "{{ $nobody }}", "{{ .Nothing }}", "{{ gt $value `a` }}", "{{ $value.x }}",
     '{{ match "(" "x" }}', "{{ len $value }}", "{{ range $value }}{{ end }}", '{{ parseDuration "soon" }}'],
)  # fmt: skip
def test_an_error_while_filling_in_is_the_text(source: str) -> None:
    assert _text(source).startswith("<error expanding template: ")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ query `up` }}", "'query' is not supported here"),
        ("{{ first (query `up`) }}", "'query' is not supported here"),
        ("{{ range $x := $labels }}", "without {{end}}"),
        ("{{ break }}", "outside {{range}}"),
        ("{{ if true }}{{ continue }}{{ end }}", "outside {{range}}"),
        ("{{ 0x }}", "bad number|unexpected|no function"),
        ("{{ template `x` }}", "'template' is not supported"),
        ("{{ if true }}", "without {{end}}"),
        ("{{ end }}", "unexpected {{end}}"),
        ("{{ }}", "missing value"),
        ("{{ $value ! }}", "unexpected"),
        ("{{ $labels.job", "unclosed"),
        ("{{ humanize }}", "cannot take 0 arguments"),
        ("{{ humanize 1 2 }}", "cannot take 2 arguments"),
        ("{{ ($value }}", "parenthesis"),
        ("{{ $value $value }}", "cannot be called"),
        ("{{ " + "(" * 100 + "1" + ")" * 100 + " }}", "parentheses"),
        ("{{ if 1 }}" * 100 + "{{ end }}" * 100, "blocks"),
        ("{{ 1 }}" + "x" * 20_000, "characters"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_template_is_refused_when_loaded(source: str, words: str) -> None:
    with pytest.raises(BadTemplate, match=words.replace("{", r"\{").replace("}", r"\}")):
        Template.parse(source)


def test_a_text_has_a_bound() -> None:
    big = "{{ $labels.x }}" * 100
    text = Template.parse(big).expand({"x": "y" * 1_000}, 0.0)
    assert len(text) == TEXT_CHARS_MAX
    assert text.endswith("[cut]")
    grown = Template.parse('{{ reReplaceAll "." "$0$0$0$0$0$0$0$0$0$0$0$0" $labels.x }}').expand(
        {"x": "y" * 100_000}, 0.0
    )
    assert grown.startswith("<error expanding template")
