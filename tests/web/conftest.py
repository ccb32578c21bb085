"""Fixtures for the page in a real browser, before a real collector with a real host."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

NAME = "watchbill_acceptance_house"
CHROMIUM = "/usr/bin/chromium"


def _house() -> ModuleType:
    """The acceptance tests' `house.py`: test folders are no packages, so it cannot be imported by name."""
    if NAME in sys.modules:
        return sys.modules[NAME]
    path = Path(__file__).parent.parent / "acceptance" / "house.py"
    spec = importlib.util.spec_from_file_location(NAME, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[NAME] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def until() -> Any:
    """Wait for a condition; see house.py."""
    return _house().until


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where an initialised collector is kept, to be copied."""
    return tmp_path_factory.mktemp("template")


@pytest.fixture
def house(template: Path) -> Iterator[Any]:
    """An empty house for one test."""
    made = _house().House(template)
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared_house(template: Path) -> Iterator[Any]:
    """An empty house for the tests of one file."""
    made = _house().House(template)
    yield made
    made.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


class Visit:
    """One page in a context of its own, and everything it complained of."""

    def __init__(self, browser: Any, collector: Any, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(20_000)
        self.page = self.context.new_page()
        self.url = collector.url
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self._said(message))
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: self._asked(dialog))

    def _asked(self, dialog: Any) -> None:
        self.complaints.append("dialog")
        dialog.dismiss()

    def _said(self, message: Any) -> None:
        if message.type == "error":
            self.complaints.append(f"error: {message.text} {message.location.get('url', '')}")

    def open(self, path: str = "/") -> Any:
        """Go there; the page."""
        self.page.goto(self.url + path)
        return self.page

    def link_is(self, word: str) -> None:
        """Wait until the head line says that."""
        self.page.locator(f"header .link.{word}").wait_for()

    def fits(self) -> bool:
        """Whether nothing is wider than the window."""
        found: bool = self.page.evaluate(
            "document.scrollingElement.scrollWidth <= document.scrollingElement.clientWidth"
        )
        return found


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    """Opens a collector's page: `visit(collector, **options of the browser's context)`."""
    made: list[Visit] = []

    def opened(collector: Any, **options: Any) -> Visit:
        made.append(Visit(browser, collector, **options))
        return made[-1]

    yield opened
    for one in made:
        one.context.close()
