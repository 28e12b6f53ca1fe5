"""Imports between the modules of the library: no cycle, and only from higher to lower packages."""

import ast
from graphlib import TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

ROOT = Path(__file__).parents[1]
# A module imports only modules of a lower or equal rank.
RANKS = {
    "modeling_bdam": 0,
    "data_pipeline.schema": 1,
    "data_pipeline.images": 1,
    "data_pipeline.offline": 1,
    "data_pipeline.synthetic": 2,
    "data_pipeline.benchmarks": 3,
    "data_pipeline.hub": 4,
    "data_pipeline.batches": 5,
    "data_pipeline.training": 6,
    **dict.fromkeys(
        [f"data_pipeline.{name}" for name in ("descriptions", "styles", "sheets", "detection", "search")], 7
    ),
    "data_pipeline.experiments": 8,
    "data_pipeline.commands": 9,
    "data_pipeline": 10,  # the package itself, which imports its public names at first use
    "run_t2i_reid": 11,
}


def rank(module: str) -> int:
    return next(RANKS[start] for start in (".".join(module.split(".")[:n]) for n in (2, 1)) if start in RANKS)


def import_graph() -> dict[str, set[str]]:
    """Maps each module to the modules that it imports anywhere, also in functions and under TYPE_CHECKING."""
    paths = [ROOT / "run_t2i_reid.py", *ROOT.glob("modeling_bdam/**/*.py"), *ROOT.glob("data_pipeline/**/*.py")]
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        imported: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                source = resolve_name("." * node.level + (node.module or ""), package)
                imported |= {f"{source}.{alias.name}" for alias in node.names} & modules.keys() or {source}
            elif isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
        graph[module] = imported & modules.keys() - {module}
    return graph


def test_imports_have_no_cycle() -> None:
    TopologicalSorter(import_graph()).prepare()  # raises CycleError with the cycle


def test_imports_never_point_to_a_higher_rank() -> None:
    graph = import_graph()
    wrong = [(module, other) for module in graph for other in graph[module] if rank(module) < rank(other)]
    assert not wrong


def test_files_of_a_checkpoint_import_only_siblings() -> None:
    graph = import_graph()
    files = {f"modeling_bdam.{path.stem}" for path in ROOT.glob("modeling_bdam/*.py")} - {"modeling_bdam.__init__"}
    wrong = {module: graph[module] - files for module in files if graph[module] - files}
    assert len(files) > 10 and not wrong
