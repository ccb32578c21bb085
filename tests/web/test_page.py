"""The page as people see it: true, live, harmless whatever hosts call their things, on any screen."""

import json

import pytest

pytestmark = [pytest.mark.timeout(120), pytest.mark.real("chromium")]

EVIL = '<img src=x onerror="document.title=1337"><script>alert(1)</script>'
RULES = f"""\
groups:
  - name: page
    interval: 1s
    rules:
      - alert: AlwaysFiring
        expr: node_load1 >= 0
        labels: {{severity: major}}
        annotations: {{summary: {json.dumps("on {{ $labels.instance }}: {{ $labels.team }}")}}}
"""
CHARTS = 8


@pytest.fixture(scope="module")
def collector(shared_house):
    made = shared_house.collector("[rules]\nstock = false\n", anonymous=True, launch=False)
    (made.etc / "rules.d" / "page.yml").write_text(RULES)
    made.launch()
    return made


@pytest.fixture(scope="module", autouse=True)
def agent(shared_house, collector):
    return shared_house.agent(collector, "web1", f"interval = \"1s\"\nlabels = {{ team = '{EVIL}' }}\n")


def row(page, name):
    return page.locator("tbody tr", has=page.get_by_role("link", name=name, exact=True))


def drawn(page):
    """How many charts have a line: their legend has a value that is not the dash."""
    return page.evaluate(
        """() => [...document.querySelectorAll("figure.chart")].filter((figure) => {
            const canvas = figure.querySelector("canvas");
            const values = [...figure.querySelectorAll(".u-legend .u-value")].slice(1);
            if (canvas === null || !values.some((value) => /\\d/.test(value.textContent))) return false;
            const ink = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
            return ink.some((part, place) => place % 4 === 3 && part > 0);
        }).length"""
    )


def test_the_hosts_are_shown_with_their_numbers_and_states(collector, visit):
    one = visit(collector)
    page = one.open()
    one.link_is("live")
    line = row(page, "web1")
    line.get_by_text("up", exact=True).wait_for()
    line.get_by_text("AlwaysFiring").wait_for()
    page.wait_for_function("/\\d+\\s*%/.test(document.querySelector('tbody tr')?.textContent ?? '')")
    summary = page.locator("section.summary").inner_text()
    assert " ".join(summary.split()) == "0 critical 1 major 0 minor 0 hosts down 1 up"
    assert page.title() == "1 firing · Watchbill"
    page.get_by_label("Filter hosts").fill("nobody")
    assert page.locator("tbody tr").count() == 0
    assert one.complaints == []


def test_a_hosts_charts_are_drawn_and_a_reload_brings_them_back(collector, visit, until):
    one = visit(collector)
    page = one.open()
    row(page, "web1").get_by_role("link").first.click()
    page.get_by_role("heading", name="web1").wait_for()
    page.wait_for_function(f"document.querySelectorAll('figure.chart').length === {CHARTS}")
    until(lambda: drawn(page) >= CHARTS - 2, "the charts are drawn")
    assert page.get_by_text("no data in this range").count() <= 2, "what this machine does not have"
    for name in ("5 min", "1 h", "15 min"):
        page.get_by_role("button", name=name, exact=True).click()
        until(lambda: drawn(page) >= CHARTS - 2, f"drawn over {name}")
    page.get_by_role("button", name="7 d", exact=True).click()
    page.get_by_role("button", name="7 d", exact=True, pressed=True).wait_for()
    page.reload()
    page.get_by_role("heading", name="web1").wait_for()
    page.get_by_role("link", name="All hosts").click()
    page.get_by_role("heading", name="Hosts", exact=True, level=2).wait_for()
    row(page, "web1").wait_for()
    assert one.complaints == []


def test_an_alert_is_shown_with_what_it_says(collector, visit):
    one = visit(collector)
    page = one.open()
    alert = page.locator("li.alert.firing")
    alert.wait_for()
    assert "AlwaysFiring" in alert.inner_text()
    assert "major" in alert.inner_text().lower()
    assert alert.get_by_role("link", name="web1", exact=True).get_attribute("href") == "#/host/web1"
    assert one.complaints == []


def test_markup_in_a_label_is_text_and_no_script_of_it_runs(collector, visit):
    one = visit(collector)
    page = one.open()
    alert = page.locator("li.alert.firing")
    alert.wait_for()
    assert EVIL in alert.inner_text()
    assert page.locator("li.alert img, li.alert script").count() == 0
    page.goto(f"{collector.url}/#/host/{EVIL}")
    page.get_by_role("heading", name="<img").wait_for()
    assert EVIL in page.locator("h1").inner_text()
    assert page.locator("main img, main script").count() == 0
    assert "1337" not in page.title()
    assert "dialog" not in one.complaints
    assert not [
        complaint for complaint in one.complaints if not complaint.startswith("error: Failed to load")
    ]


def test_the_page_carries_a_policy_that_stops_foreign_scripts(collector, visit):
    one = visit(collector)
    answer = one.page.goto(collector.url)
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    one.link_is("live")
    assert one.complaints == []
    one.page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "document.title = 'stolen'";
            document.body.append(script);
        }"""
    )
    assert "stolen" not in one.page.title()
    assert any("Content Security Policy" in complaint for complaint in one.complaints)


def test_what_changes_is_shown_without_a_reload(shared_house, collector, visit):
    one = visit(collector)
    page = one.open()
    one.link_is("live")
    page.evaluate("window.same = true")
    newcomer = shared_house.agent(collector, "web2")
    row(page, "web2").get_by_text("up", exact=True).wait_for()
    newcomer.stop()
    row(page, "web2").get_by_text("up", exact=True).wait_for(state="detached")
    collector.cli("hosts", "retire", "web2", "--yes")
    row(page, "web2").get_by_text("retired", exact=True).wait_for()
    assert page.evaluate("window.same") is True
    assert one.complaints == []


SHOWN = """() => {
    const link = document.querySelector("nav [aria-current]"), row = link.parentElement.getBoundingClientRect();
    const place = link.getBoundingClientRect();
    return link.textContent === "Query" && row.left - 1 <= place.left && place.right <= row.right + 1;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_telephone_in_light_and_dark(collector, visit, until, scheme):
    one = visit(collector, viewport={"width": 400, "height": 800}, color_scheme=scheme)
    page = one.open()
    one.link_is("live")
    row(page, "web1").wait_for()
    assert one.fits()
    red, green, blue = page.evaluate(
        """() => {
            for (const element of [document.body, document.documentElement]) {
                const parts = getComputedStyle(element).backgroundColor.match(/[\\d.]+/g).map(Number);
                if (parts.length === 3 || parts[3] > 0) return parts.slice(0, 3);
            }
            return [255, 255, 255];
        }"""
    )
    assert (red + green + blue < 200) == (scheme == "dark")
    page.goto(f"{collector.url}/#/host/web1")
    until(lambda: drawn(page) >= CHARTS - 2, "the charts are drawn")
    assert one.fits()
    page.set_viewport_size({"width": 900, "height": 800})
    page.set_viewport_size({"width": 400, "height": 800})
    until(one.fits, "the charts follow the window")
    page.goto(f"{collector.url}/#/query")
    until(lambda: page.evaluate(SHOWN), "the view that is open is seen in the row of views")
    assert one.complaints == []
