"""Alerts on the page: where, since when, whose, what to do, what the rule looks at; silences; what roles are offered.

One collector with an agent that calls its things by hostile names; what is written is looked up in the API.
"""

import json
import re

import pytest

pytestmark = [pytest.mark.timeout(180), pytest.mark.real("chromium")]

MARKUP = '"><svg onload=alert(1)><b>bold</b>{{7*7}}'
TURNED = "abc\u202egnp.exe\u202c\u2066x\u2069"
UNSEEN = "a\u200bb\x07c\u00add"
PILED = "e" + "\u0301" * 200
LINES = "one\ntwo\tthree"
FACES = "🔥👩\u200d💻 " * 20
LONG = "x" * 1024
HOSTILE = {
    "markup": MARKUP, "turned": TURNED, "unseen": UNSEEN, "piled": PILED, "lines": LINES, "faces": FACES, "long": LONG
}  # fmt: skip
RULES = """\
thresholds:
  - name: LoadAny
    metric: node_load1
    above: -1
    clear: -2
    severity: critical
    runbook: https://wiki.example.org/load?a=1&b=2
    article: 'javascript:alert(1)'
    annotations:
      description: 'team says {{ $labels.markup }}'
groups:
  - name: page
    interval: 1s
    rules:
      - alert: Plain
        expr: node_load1 >= 0
        labels: {severity: minor}
        annotations: {runbook_url: 'data:text/html,<script>alert(1)</script>', runbook: free-disk}
      - alert: Waits
        expr: node_load1 >= 0
        for: 1h
      - alert: Warms
        expr: rate(node_cpu_seconds_total[6h]) < 0
      - alert: Crowd
        expr: node_cpu_seconds_total >= 0
        labels: {severity: info}
      - record: 'page:load:max'
        expr: max by (instance) (node_load1)
"""
SERVICES = """\
[[service]]
name = "shop"
owner = "team-<i>web</i>"
hosts = 'instance="web1"'
depends = ["store"]
objectives = { availability = "99.9%", rto = "1h", rpo = "15m" }
[[service]]
name = "store"
hosts = 'instance="nobody"'
"""
MORE = """
[rules]
stock = false
interval = "1s"
[[channel]]
name = "good"
kind = "exec"
argv = ["/bin/true"]
[[channel]]
name = "broken"
kind = "exec"
argv = ["/bin/sh", "-c", "echo '<b>gone</b>' >&2; exit 75"]
[[route]]
channels = ["good", "broken"]
[[maintenance]]
name = "patching"
match = 'role="none"'
cron = "0 3 * * sun"
zone = "Europe/Berlin"
duration = "2h"
"""


@pytest.fixture(scope="module")
def collector(shared_house, until):
    made = shared_house.collector(MORE, launch=False)
    (made.etc / "rules.d" / "page.yml").write_text(RULES)
    (made.etc / "services.d").mkdir()
    (made.etc / "services.d" / "shop.toml").write_text(SERVICES)
    made.launch()
    labels = ", ".join(
        f"{name} = {json.dumps(text, ensure_ascii=True)}" for name, text in toml_safe().items()
    )
    shared_house.agent(made, "web1", f'interval = "1s"\nlabels = {{ {labels} }}\n')
    until(lambda: firing(made, "Plain") and firing(made, "LoadAny"), "the rules fire")
    return made


def toml_safe():
    """JSON's escapes of pairs are not TOML's: what is beyond the first plane stands there as it is."""
    return {name: text for name, text in HOSTILE.items() if name != "faces"}


def firing(collector, name):
    return [alert for alert in collector.alerts(name) if alert["state"] == "firing"]


def login(collector, visit, role=None, **options):
    """A visit by somebody with that role, or by the administrator."""
    if role is None:
        token = collector.token_file.read_text().strip()
    else:
        made = collector.command("user", "list", "--json").out
        if f'"{role}-of-page"' not in made:
            done = collector.command(
                "user",
                "add",
                f"{role}-of-page",
                "--role",
                role,
                "--token-file",
                str(collector.home / f"{role}.token"),
            )
            assert done.code == 0, done
        token = (collector.home / f"{role}.token").read_text().strip()
    one = visit(collector, **options)
    page = one.open()
    page.get_by_label("One-time code or token").fill(token)
    page.get_by_role("button", name="Log in").click()
    one.link_is("live")
    return one, page


def row(page, name):
    return page.locator("li.alert", has=page.get_by_text(name)).first


def errors(one):
    return [text for text in one.complaints if "401" not in text]


def test_the_first_screen_says_where_since_when_whose_and_what_to_do(collector, visit):
    one, page = login(collector, visit)
    line = row(page, "LoadAny")
    line.wait_for()
    text = line.inner_text()
    assert "critical" in text
    assert "since " in text
    assert "team-<i>web</i>" in text
    assert line.get_by_role("link", name="web1", exact=True).get_attribute("href") == "#/host/web1"
    assert line.get_by_role("link", name="shop").get_attribute("href") == "#/services/shop"
    runbook = line.get_by_role("link", name="Runbook")
    assert runbook.get_attribute("href") == "https://wiki.example.org/load?a=1&b=2"
    assert runbook.get_attribute("rel") == "noopener noreferrer"
    assert "Article: javascript:alert(1)" in text
    plain = row(page, "Plain")
    assert "Runbook: free-disk" in plain.inner_text()
    assert page.locator("li.alert").first.get_by_text("critical").count() > 0, "the worst comes first"
    assert page.locator("a[href^=javascript], a[href^=data]").count() == 0
    page.locator(".serving").get_by_role("link", name="shop").wait_for()
    assert errors(one) == []


def test_many_alerts_of_one_rule_stand_in_one_row(collector, visit):
    one, page = login(collector, visit)
    many = len(firing(collector, "Crowd"))
    assert many > 4
    crowd = page.get_by_role("button", name=f"{many} \N{MULTIPLICATION SIGN} Crowd")
    crowd.wait_for()
    before = page.locator("li.alert").count()
    crowd.click()
    page.get_by_text("mode idle").first.wait_for()
    assert page.locator("li.alert").count() == before + min(many, 50)
    page.get_by_label("Filter alerts").fill("crowd idle web1")
    page.get_by_text("mode idle").first.wait_for()
    row(page, "LoadAny").wait_for(state="detached")
    assert errors(one) == []


def test_an_alert_has_an_address_with_its_rule_in_both_forms_and_its_chart(collector, visit, until):
    one, page = login(collector, visit)
    alert = firing(collector, "LoadAny")[0]
    page.goto(f"{collector.url}/#/alerts/{alert['fingerprint']}")
    page.get_by_role("heading", level=1, name="LoadAny").wait_for()
    text = page.locator("main").inner_text()
    assert "node_load1 above -1, clears at -2" in text
    assert "node_load1 > -1 or node_load1 > -2 and ignoring" in text
    assert "(limit > -1)" in text
    assert MARKUP in text
    until(
        lambda: page.evaluate(
            """() => { const canvas = document.querySelector("figure.tall canvas");
            return canvas !== null && /web1.*[0-9]/.test(document.querySelector(".u-legend")?.innerText ?? ""); }"""
        ),
        "the chart is drawn",
    )
    told = page.locator("section", has=page.get_by_role("heading", name="Who was told"))
    told.get_by_text("delivered").wait_for()
    said = told.inner_text()
    assert "good: is told again while it fires" in said
    assert "exit code 75, <b>gone</b>" in said
    page.reload()
    page.get_by_role("heading", level=1, name="LoadAny").wait_for()
    page.goto(f"{collector.url}/#/alerts/0000000000000000")
    page.get_by_text("no such alert").wait_for()
    page.goto(f"{collector.url}/graph?g0.expr=node_load1%20%3E%3D%200&g0.tab=1")
    assert page.get_by_label("PromQL expression").input_value() == "node_load1 >= 0"
    page.locator("li.channel").get_by_text("web1").wait_for()
    assert page.url.endswith("/#/query?expr=node_load1%20%3E%3D%200")
    assert [text for text in errors(one) if "404" not in text] == []


def test_what_a_host_calls_things_does_no_harm_in_any_view(collector, visit, until):
    one, page = login(collector, visit, viewport={"width": 400, "height": 800})
    prints = [firing(collector, name)[0]["fingerprint"] for name in ("LoadAny", "Plain")]
    views = [
        "",
        "hosts",
        "host/web1",
        "services",
        "services/shop",
        "rules",
        "rules/LoadAny",
        "silences",
        "notices",
        "audit",
    ]
    views += [f"alerts/{each}" for each in prints] + ["query?expr=node_load1"]
    for view in views:
        page.goto(f"{collector.url}/#/{view}")
        page.locator("main").wait_for()
        until(lambda: "asking …" not in page.locator("main").inner_text(), f"{view} has its answers")
        assert one.fits(), view
        assert page.locator("main svg, main img, main script, main i, main iframe, main b").count() == 0, view
        shown = page.locator("main").inner_text()
        for letter in ("\u202e", "\u2066", "\u200b", "\x07", "\u00ad"):
            assert letter not in shown, (view, letter)
        assert "\u0301" * 4 not in shown, view
    page.goto(f"{collector.url}/#/alerts/{prints[0]}")
    labels = page.locator(".labels").first
    labels.get_by_text("‹U+202E›gnp.exe").wait_for()  # noqa: RUF001 - The page's own marks.
    assert "one ↵ two ⇥ three" in labels.inner_text()
    assert "dialog" not in one.complaints
    assert "1337" not in page.title()
    assert errors(one) == []


def test_a_silence_is_shown_first_then_made_then_ended(collector, visit):
    one, page = login(collector, visit)
    line = row(page, "Plain")
    line.get_by_role("button", name="Silence").click()
    dialog = page.get_by_role("dialog")
    matchers = dialog.get_by_label("Matchers")
    # All that the host says of itself is in it, what cannot be seen as its number, and the collector reads it back.
    assert r"\x{202e}" in matchers.input_value()
    assert "\u202e" not in matchers.input_value()
    dialog.get_by_text("Silences 1 alert now").wait_for()
    confirm = dialog.get_by_role("button", name="Silence 1 alert for 2 h")
    assert confirm.is_disabled(), "a reason is missing"
    dialog.get_by_role("button", name="everything of this host").click()
    assert matchers.input_value() == 'instance="web1"'
    dialog.get_by_text(re.compile(r"Silences \d\d+ alerts now")).wait_for()
    matchers.fill('alertname=~"("')
    dialog.get_by_role("alert").wait_for()
    dialog.get_by_role("button", name="this alert alone").click()
    dialog.get_by_label("Another duration").fill("nonsense")
    dialog.get_by_text("a duration such as").wait_for()
    dialog.get_by_role("button", name="1h", exact=True).click()
    dialog.get_by_label("Reason").fill("<b>ticket</b> 4711")
    dialog.get_by_role("button", name="Silence 1 alert for").click()
    dialog.wait_for(state="detached")
    page.get_by_role("button", name="Silenced (1)").click()
    page.get_by_role("link", name="silenced", exact=True).click()
    kept = page.locator("li.silence")
    kept.wait_for()
    text = kept.inner_text()
    assert "<b>ticket</b> 4711" in text
    assert "by admin" in text
    assert "left, until" in text
    (silence,) = collector.get("/silences")["silences"]
    assert (silence["author"], silence["reason"], silence["firing"]) == ("admin", "<b>ticket</b> 4711", 1)
    page.get_by_role("button", name="Expire").click()
    page.get_by_role("button", name="Expire: 1 will be told").click()
    page.locator("li.silence.expired").wait_for()
    assert collector.get("/silences")["silences"] == []
    assert "by admin" in page.locator("li.silence .since").inner_text()
    assert [text for text in errors(one) if "/match" not in text] == [], "the bad matchers alone were refused"


def test_the_dialog_is_worked_by_keys_alone(collector, visit):
    one, page = login(collector, visit)
    button = row(page, "Plain").get_by_role("button", name="Silence")
    button.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("Silences 1 alert now").wait_for()
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.type") == "search"
    assert errors(one) == []


@pytest.mark.parametrize("role", ["viewer", "auditor", "operator"])
def test_what_a_role_may_not_do_is_not_offered(collector, visit, role):
    one, page = login(collector, visit, role)
    row(page, "Plain").wait_for()
    operates = role == "operator"
    assert f"role {role}" in page.locator("header .who").inner_text()
    assert (page.get_by_role("button", name="Silence", exact=True).count() > 0) == operates
    assert (page.get_by_role("link", name="Audit").count() > 0) == (role != "viewer")
    page.goto(f"{collector.url}/#/silences")
    page.get_by_role("heading", name="Maintenance windows").wait_for()
    assert (page.get_by_role("button", name="New silence").count() > 0) == operates
    page.goto(f"{collector.url}/#/notices")
    page.get_by_text("good", exact=True).first.wait_for()
    assert (page.get_by_role("button", name="Send a test").count() > 0) == operates
    assert errors(one) == []


def test_somebody_with_a_scope_sees_his_part_and_silences_within_it(collector, visit):
    file = collector.home / "scoped.token"
    done = collector.command(
        "user", "add", "scoped", "--role", "operator", "--scope", "team=none", "--token-file", str(file)
    )
    assert done.code == 0, done
    one = visit(collector)
    page = one.open()
    page.get_by_label("One-time code or token").fill(file.read_text().strip())
    page.get_by_role("button", name="Log in").click()
    one.link_is("live")
    page.get_by_text("Nothing is firing.").wait_for()
    assert page.locator("tbody tr").count() == 0
    assert "operator (team=" in page.locator("header .who").inner_text()
    page.goto(f"{collector.url}/#/silences")
    page.get_by_text("Nothing is silenced.").wait_for()
    page.get_by_role("button", name="New silence").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Matchers").fill('alertname=~".+"')
    dialog.get_by_text("Matches nothing that is pending or firing now.").wait_for()
    assert 'within {team="none"}' in dialog.inner_text()
    dialog.get_by_label("Reason").fill("of team none")
    dialog.get_by_role("button", name="Silence what comes").click()
    kept = page.locator("li.silence")
    kept.wait_for()
    assert 'within {team="none"}' in kept.inner_text()
    kept.get_by_role("button", name="Expire").click()
    kept.get_by_role("button", name="Expire now").click()
    page.get_by_text("Nothing is silenced.").wait_for()
    assert errors(one) == []


def test_services_rules_and_channels_have_their_views(collector, visit):
    one, page = login(collector, visit)
    page.goto(f"{collector.url}/#/services")
    shop = page.locator("tr", has=page.get_by_role("link", name="shop"))
    shop.get_by_text("critical", exact=True).wait_for()
    assert "1 of 1" in shop.inner_text()
    page.goto(f"{collector.url}/#/services/shop")
    page.get_by_text("99.9 % promised").wait_for()
    assert page.get_by_role("link", name="store").count() == 1
    row(page, "LoadAny").wait_for()
    page.goto(f"{collector.url}/#/rules")
    line = page.locator("tr", has=page.get_by_role("link", name="LoadAny"))
    line.get_by_text("firing", exact=True).wait_for()
    assert "node_load1 above -1, clears at -2" in line.inner_text()
    warms = page.locator("tr", has=page.get_by_role("link", name="Warms"))
    warms.get_by_text("warming: 1 of 1").wait_for()
    page.get_by_role("button", name="recording 1").click()
    page.get_by_role("link", name="page:load:max").wait_for()
    assert page.locator("tbody tr").count() == 1
    page.goto(f"{collector.url}/#/notices")
    broken = page.locator("li.channel", has=page.get_by_text("broken", exact=True))
    broken.get_by_text("fails since").wait_for()
    good = page.locator("li.channel", has=page.get_by_text("good", exact=True))
    good.get_by_role("button", name="Send a test").click()
    good.get_by_text("Delivered:").wait_for()
    page.goto(f"{collector.url}/#/")
    page.locator(".trouble").get_by_text("Notices do not get out").wait_for()
    page.goto(f"{collector.url}/#/audit")
    page.get_by_label("What").fill("login")
    page.get_by_label("What").press("Enter")
    page.locator("tbody").get_by_text("login", exact=True).first.wait_for()
    assert errors(one) == []


def test_nothing_is_fetched_from_elsewhere(collector, visit):
    _, page = login(collector, visit)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{collector.url}/#/rules")
    page.reload()
    row_count = page.locator("tbody tr")
    row_count.first.wait_for()
    assert asked
    assert all(url.startswith(f"{collector.url}/") for url in asked), asked
