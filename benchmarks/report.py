"""What a benchmark says: rows of ours beside a peer's, in the same run."""

import os
import platform
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `ratio` is ours / peer: below 1 we need less. Without a peer the limit we set stands there."""

    what: str
    ours: float | None
    unit: str
    peer: float | None = None
    peer_name: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours / peer, where both are known."""
        return self.ours / self.peer if self.ours is not None and self.peer else None


@dataclass
class Report:
    """All rows of one benchmark, and what a reader has to know to judge them."""

    title: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(
        self, what: str, ours: float | None, unit: str, peer: float | None = None, peer_name: str = ""
    ) -> None:
        """One more row."""
        self.rows.append(Row(what, ours, unit, peer, peer_name))

    def as_rows(self) -> list[dict[str, object]]:
        """The rows as they stand in the results file."""
        return [
            {
                "what": row.what,
                "ours": row.ours,
                "peer": row.peer,
                "peer_name": row.peer_name,
                "unit": row.unit,
                "ratio": None if row.ratio is None else round(row.ratio, 4),
            }
            for row in self.rows
        ]

    def table(self) -> str:
        """Plain text, aligned."""
        head = ("what", "ours", "peer", "ratio", "unit", "beside")
        lines = [
            (row.what, _number(row.ours), _number(row.peer), _number(row.ratio), row.unit, row.peer_name)
            for row in self.rows
        ]
        widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
        text = [self.title, ""]
        for line in [head, *lines]:
            cells = [
                cell.rjust(width) if 1 <= column <= 3 else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            text.append("  ".join(cells).rstrip())
        return "\n".join([*text, "", *(f"- {note}" for note in self.notes), ""])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def machine() -> str:
    """What ran this: processors, memory, kernel, Python."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    kib = int(Path("/proc/meminfo").read_text().split()[1])
    return (
        f"{os.cpu_count()} x {model}, {kib / 2**20:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}"
    )
