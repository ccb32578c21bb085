"""Every mistake that Prometheus' own checker finds in a rule file is found here too."""
# A table reads best with a line for each case.

import subprocess
from pathlib import Path

import pytest

from watchbill_collector.rules import Source, check

G = "groups:\n- name: g\n  rules:\n"
MISTAKES = {
    'dupgroup': "groups:\n- name: g\n- name: g\n",
    'badlabel': G+"  - {alert: A, expr: up, labels: {'a-b': x}}\n",
    'badlabel2': G+"  - {alert: A, expr: up, labels: {'': x}}\n",
    'badlabel3': G+"  - {record: a, expr: up, labels: {'1a': x}}\n",
    'ann': G+"  - {alert: A, expr: up, annotations: {'a-b': x}}\n",
    'reserved': G+"  - {alert: A, expr: up, labels: {__name__: x}}\n",
    'reserved3': G+"  - {record: a, expr: up, labels: {__name__: x}}\n",
    'dur1': G+"  - {alert: A, expr: up, for: 1.5h}\n",
    'dur2': G+"  - {alert: A, expr: up, for: 5}\n",
    'dur3': G+"  - {alert: A, expr: up, for: -5m}\n",
    'dur4': G+"  - {alert: A, expr: up, for: 1m1h}\n",
    'dur5': G+"  - {alert: A, expr: up, for: 5min}\n",
    'dur6': G+"  - {alert: A, expr: up, for: ''}\n",
    'int2': "groups:\n- {name: g, interval: x, rules: []}\n",
    'recname': G+"  - {record: 'a-b', expr: up}\n",
    'recname2': G+"  - {record: '1a', expr: up}\n",
    'recname3': G+"  - {record: 'a b', expr: up}\n",
    'recname4': G+"  - {record: 'é', expr: up}\n",
    'tmpl1': G+"  - {alert: A, expr: up, annotations: {s: '{{ $labels.x '}}\n",
    'tmpl2': G+"  - {alert: A, expr: up, annotations: {s: '{{ nope }}'}}\n",
    'tmpl3': G+"  - {alert: A, expr: up, annotations: {s: '{{ if }}'}}\n",
    'tmpl4': G+"  - {alert: A, expr: up, annotations: {s: '{{ $nobody }}'}}\n",
    'tmpl5': G+"  - {alert: A, expr: up, annotations: {s: '{{ end }}'}}\n",
    'tmpl7': G+"  - {alert: A, expr: up, labels: {s: '{{ $value | humanise }}'}}\n",
    'tmpl13': G+"  - {alert: A, expr: up, annotations: {s: '{{ if true }}x'}}\n",
    'tmpl14': G+"  - {alert: A, expr: up, annotations: {s: '{{ \"x }}'}}\n",
    'unk1': "groups: []\nfoo: 1\n",
    'unk2': "groups:\n- {name: g, foo: 1}\n",
    'unk3': G+"  - {alert: A, expr: up, summary: x}\n",
    'noname': "groups:\n- {rules: []}\n",
    'emptyname': "groups:\n- {name: '', rules: []}\n",
    'noexpr': G+"  - {alert: A}\n",
    'emptyexpr': G+"  - {alert: A, expr: ''}\n",
    'both': G+"  - {alert: A, record: b, expr: up}\n",
    'neither': G+"  - {expr: up}\n",
    'recfor': G+"  - {record: a, expr: up, for: 1m}\n",
    'recann': G+"  - {record: a, expr: up, annotations: {a: b}}\n",
    'badexpr': G+"  - {alert: A, expr: 'up ='}\n",
    'badexpr2': G+"  - {alert: A, expr: 'rate(up)'}\n",
    'badexpr3': G+"  - {alert: A, expr: 'sum(up[5m])'}\n",
    'badre': G+"  - {alert: A, expr: 'up{a=~\"*\"}'}\n",
    'emptymatch': G+"  - {alert: A, expr: '{a=~\".*\"}'}\n",
    'labellist': G+"  - {alert: A, expr: up, labels: {a: [1]}}\n",
    'dupkey': G+"  - {alert: A, alert: B, expr: up}\n",
    'limit': "groups:\n- {name: g, limit: x}\n",
    'tab': "groups:\n\t- name: x\n",
    'sumby': G+"  - {alert: A, expr: 'sum by (a-b) (x)'}\n",
    'many': G+"  - {alert: A, expr: 'a and group_left(b) c'}\n",
    'boolset': G+"  - {alert: A, expr: 'a and bool c'}\n",
    '1>2': G+"  - {alert: A, expr: '1 > 2'}\n",
}  # fmt: skip


@pytest.mark.real("promtool")
@pytest.mark.parametrize("name", MISTAKES)
def test_what_promtool_refuses_is_refused(name: str, tmp_path: Path) -> None:
    file = tmp_path / "rules.yml"
    file.write_text(MISTAKES[name])
    found = subprocess.run(
        ["promtool", "check", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert found.returncode != 0, "the table says that promtool refuses it"
    assert check([Source(str(file), file.read_bytes())])
