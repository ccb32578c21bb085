"""The page of a collector that lets nobody read: it asks who is there, and shows nothing before."""

import pytest

pytestmark = [pytest.mark.timeout(120), pytest.mark.real("chromium")]


@pytest.fixture(scope="module")
def collector(shared_house):
    made = shared_house.collector("[rules]\nstock = false\n")
    shared_house.agent(made, "web1")
    return made


def token(collector):
    return collector.token_file.read_text().strip()


def errors(one):
    """Complaints beside those of the browser about answers that were refused, which are the point here."""
    return [text for text in one.complaints if "401" not in text and "403" not in text]


def test_nothing_is_shown_before_the_right_token_was_given(collector, visit):
    one = visit(collector)
    page = one.open()
    page.get_by_role("heading", name="Who is there?").wait_for()
    assert "web1" not in page.content()
    secret = page.get_by_label("One-time code or token")
    assert secret.get_attribute("type") == "password"
    secret.fill("wrong")
    page.get_by_role("button", name="Log in").click()
    page.get_by_text("did not accept").wait_for()
    secret.fill(token(collector))
    page.get_by_role("button", name="Log in").click()
    page.locator("tbody").get_by_text("web1").wait_for()
    one.link_is("live")
    page.reload()
    page.locator("tbody").get_by_text("web1").wait_for()
    cookies = {cookie["name"]: cookie for cookie in one.context.cookies()}
    session = next(cookie for name, cookie in cookies.items() if "csrf" not in name)
    assert session["httpOnly"]
    assert session["sameSite"] == "Strict"
    assert token(collector) not in str(cookies)
    assert errors(one) == []


def test_after_a_login_changes_are_shown_live(shared_house, collector, visit):
    one = visit(collector)
    page = one.open()
    page.get_by_label("One-time code or token").fill(token(collector))
    page.get_by_role("button", name="Log in").click()
    page.locator("tbody").get_by_text("web1").wait_for()
    shared_house.agent(collector, "web2")
    page.locator("tbody").get_by_text("web2").wait_for()
    assert errors(one) == []


def test_a_one_time_login_opens_the_page_once(collector, visit):
    code = collector.ask("POST", "/api/watchbill/v1/logins").json["code"]
    one = visit(collector)
    page = one.open(f"/login?code={code}")
    page.locator("tbody").get_by_text("web1").wait_for()
    assert code not in page.url
    assert errors(one) == []
    other = visit(collector)
    page = other.open(f"/login?code={code}")
    page.wait_for_load_state()
    assert "web1" not in page.content()


def test_a_code_can_be_typed_too(collector, visit):
    code = collector.ask("POST", "/api/watchbill/v1/logins").json["code"]
    one = visit(collector)
    page = one.open()
    page.get_by_label("One-time code or token").fill(code)
    page.get_by_role("button", name="Log in").click()
    page.locator("tbody").get_by_text("web1").wait_for()


def test_a_collector_that_goes_away_is_said_to_be_away(house, visit):
    collector = house.collector("[rules]\nstock = false\n", anonymous=True)
    house.agent(collector, "web1")
    one = visit(collector)
    page = one.open()
    page.locator("tbody").get_by_text("web1").wait_for()
    one.link_is("live")
    collector.kill()
    one.link_is("lost")
    told = page.locator("p.lost")
    assert "What you see below is old: stale since" in told.inner_text()
    assert page.locator("tbody").get_by_text("web1").count() > 0
    assert page.title() == "not live · Watchbill"
    collector.launch()
    one.link_is("live")
    assert told.count() == 0


def test_whoever_logs_out_sees_nothing_any_more(collector, visit):
    one = visit(collector)
    page = one.open()
    page.get_by_label("One-time code or token").fill(token(collector))
    page.get_by_role("button", name="Log in").click()
    who = page.locator("header .who")
    who.get_by_text("admin").first.wait_for()
    assert "role admin" in who.inner_text()
    page.locator("tbody").get_by_text("web1").wait_for()
    cookies = one.context.cookies()
    page.get_by_role("button", name="Log out").click()
    page.get_by_role("heading", name="Who is there?").wait_for()
    assert "web1" not in page.content()
    one.context.add_cookies(cookies)
    page.reload()
    page.get_by_role("heading", name="Who is there?").wait_for()
    assert errors(one) == []
