"""What the sections of the report are made of: Markdown tables, pictures, links."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .results import RowResult, RunResults

MISSING = "–"


@dataclass
class Section:
    """One experiment's part of the report.

    Attributes:
        lines: Markdown.
        findings: sentences for the top of the report.
    """

    lines: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """A Markdown table; the first column is text, None is a dash."""
    cells = [[MISSING if value is None else str(value).replace("|", "\\|") for value in row] for row in rows]
    rule = [":--", *["--:"] * (len(header) - 1)]
    return [f"| {' | '.join(line)} |" for line in ([*header], rule, *cells)] + [""]


def picture(path: Path, results: RunResults, caption: str) -> list[str]:
    """A figure with its caption; the PDF is linked."""
    relative = path.relative_to(results.output_dir)
    return [f"[![{caption}]({relative})]({relative.with_suffix('.pdf')})", "", f"*{caption}*", ""]


def cell_link(row: RowResult, results: RunResults) -> str:
    """The digest of the row's settings, linked to the result of its first finished seed."""
    digest = row.cells[0].key.partition("-")[0]
    if not row.folders:
        return f"{digest} (missing)"
    return f"[{digest}]({row.folders[0].relative_to(results.output_dir)}/result.json)"
