"""What is printed steers no terminal, also where somebody forgot to clean it."""

import io

import pytest

from watchbill_collector.cli.screen import Screen, clean


@pytest.mark.parametrize(
    ("foreign", "shown"),
    [
        ("a\x1b]0;title\x07b", r"a\x1b]0;title\x07b"),
        ("\x1b[2J\x1b[H", r"\x1b[2J\x1b[H"),
        ("\x9b31m", r"\x9b31m"),
        ("over\rwritten\x08\x08", r"over\rwritten\x08\x08"),
        ("exe\u202egpj", r"exe\u202egpj"),
        ("\u2066x\u2069", r"\u2066x\u2069"),
        ("\ud800", r"\ud800"),
        ("\x1b[8mhidden", r"\x1b[8mhidden"),
        ("nul\0", r"nul\x00"),
        ("schön 日本", "schön 日本"),
    ],
)
def test_nothing_foreign_steers_the_terminal(foreign: str, shown: str) -> None:
    screen = Screen(io.StringIO(), colour=True)
    screen.line(f"before {foreign} after")
    assert screen.out.getvalue() == f"before {shown} after\n"  # type: ignore[attr-defined]
    assert "\x1b" not in clean(foreign)
    table = Screen(io.StringIO(), colour=False)
    table.table(("A", foreign), [(foreign, "x")])
    assert not set(table.out.getvalue()) & set("\x1b\x9b\x07\x08\r\0\u202e\u2066")  # type: ignore[attr-defined]


def test_our_own_colours_stay() -> None:
    screen = Screen(io.StringIO(), colour=True)
    screen.line(screen.painted("down", "red"))
    assert screen.out.getvalue() == "\x1b[31mdown\x1b[0m\n"  # type: ignore[attr-defined]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_long_cell_is_cut_for_eyes_and_whole_for_a_program() -> None:
    for out, most in ((Terminal(), 120), (io.StringIO(), 4096)):
        Screen(out, colour=False).table(("A",), [("x" * 300,), ("y" * 5000,)])
        assert [len(row) for row in out.getvalue().splitlines()[1:]] == [min(300, most), most]
