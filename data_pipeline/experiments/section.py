"""Building blocks of the sections of the report: Markdown tables and figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .results import Results
from .verdicts import Comparison

MISSING = "–"
NOT_MEASURED = "Not measured yet: no finished run of this row has kept its features."


@dataclass
class Section:
    """The part of the report about one experiment.

    Attributes:
        lines: Markdown.
        findings: sentences for the summary of the report.
        verdicts: of a table.
    """

    lines: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    verdicts: list[Comparison] = field(default_factory=list)


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Formats rows with equal keys, the column titles, as a Markdown table; None is printed as a dash."""
    cells = [[MISSING if value is None else str(value).replace("|", "\\|") for value in row.values()] for row in rows]
    rule = [":--", *["--:"] * (len(rows[0]) - 1)]
    return [f"| {' | '.join(line)} |" for line in (list(rows[0]), rule, *cells)] + [""]


def picture(results: Results, name: str, caption: str) -> list[str]:
    """Shows a figure with its caption, if it has been drawn."""
    path = results.figure(name)
    if not path.is_file():
        return [f"*Not drawn yet: {caption}*", ""]
    return [f"![{caption}]({path.relative_to(results.output_dir).as_posix()})", "", f"*{caption}*", ""]
