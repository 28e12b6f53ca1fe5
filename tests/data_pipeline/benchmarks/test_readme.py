"""The tables of the benchmarks' README are equal to the `Benchmark` objects."""

from pathlib import Path

from data_pipeline.benchmarks import loading

README = Path(loading.__file__).with_name("README.md")


def expected_rows() -> list[str]:
    """The rows of both tables; paste them into the README after a change of a benchmark."""
    sources, files = [], []
    for name, benchmark in loading.BENCHMARKS.items():
        link = f"[{benchmark.title}]({benchmark.url})" if benchmark.url else benchmark.title
        counts = [f"{split} {size.people:,} / {size.images:,}" for split, size in benchmark.published.items()]
        cells = (f"`{name}`", link, benchmark.paper or "—", benchmark.license, ", ".join(counts) or "—")
        sources.append(f"| {' | '.join(cells)} |")
        files.append(f"| `{name}` | {benchmark.layout} |")
    return sources + files


def test_readme_tables_equal_the_benchmarks() -> None:
    rows = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert rows == expected_rows(), "\n".join(["expected rows:", *expected_rows()])
