"""Imports of the library: no cycle, and in one direction only."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
# A module imports modules of its own rank or of a lower one.
RANKS = {
    "modeling_bdam": 0,
    "data_pipeline.schema": 1,
    "data_pipeline.images": 1,
    "data_pipeline.synthetic": 2,
    "data_pipeline.benchmarks": 3,
    "data_pipeline.hub": 4,
    "data_pipeline.batches": 5,
    "data_pipeline.training": 6,
    **dict.fromkeys([f"data_pipeline.{name}" for name in ("descriptions", "styles", "sheets", "search")], 7),
    "data_pipeline.experiments": 8,
    "data_pipeline.commands": 9,
    "data_pipeline": 10,  # its __init__ names the public API
    "run_t2i_reid": 10,
}


def rank(module: str) -> int:
    return next(RANKS[start] for start in (".".join(module.split(".")[:n]) for n in (3, 2, 1)) if start in RANKS)


def import_graph() -> dict[str, set[str]]:
    """Module to the modules that it imports anywhere in its file, functions and type checking included."""
    paths = [ROOT / "run_t2i_reid.py", *ROOT.glob("modeling_bdam/**/*.py"), *ROOT.glob("data_pipeline/**/*.py")]
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        imported = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
                source = ".".join(filter(None, [base, node.module]))
                names = {f"{source}.{alias.name}" for alias in node.names}
                imported |= names & modules.keys() or {source}
            elif isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
        graph[module] = imported & modules.keys() - {module}
    return graph


def test_imports_have_no_cycle() -> None:
    TopologicalSorter(import_graph()).prepare()  # raises CycleError with the cycle


def test_imports_point_in_one_direction() -> None:
    lazy = {"data_pipeline", "modeling_bdam"}  # their __init__ imports each name at its first use
    wrong = [
        f"{module} imports {target}"
        for module, targets in import_graph().items()
        for target in targets - lazy
        if rank(module) < rank(target)
    ]
    assert not wrong


def test_files_that_travel_import_only_siblings() -> None:
    graph = import_graph()
    travelling = {f"modeling_bdam.{path.stem}" for path in ROOT.glob("modeling_bdam/*.py")} - {"modeling_bdam.__init__"}
    assert len(travelling) > 10
    wrong = {module: graph[module] - travelling for module in travelling if graph[module] - travelling}
    assert not wrong
