"""Imports run downhill, in the code as it is written: imports inside functions and for types only count too."""

import graphlib
from collections.abc import Sequence

import grimp
import pytest

from tests.support.paths import REPO

# From the top down. A room imports what lies on lower lines, and nothing beside it on its own.
DAPO = (
    {"cli", "pod", "worker"},
    {"data", "policy", "records", "sizing"},
    {"algo"},
    {"spec", "bus", "telemetry"},
    {"contracts"},
    {"v1", "tokens"},
    {"client", "errors", "host", "terminal"},
    {"environment", "redaction"},
)
SPEC = (
    {"load", "preview", "reference"},
    {"diagnosis", "workloads"},
    {"run"},
    {"checks"},
    {"budget"},
    {"tree"},
    {"yaml_text"},
    {"wording"},
    {"context", "paths", "problem"},
)
ALGO_IMPORTS = ("dapo.algo", "dapo.spec", "dapo.contracts", "dapo.v1")
HEAVY = ("torch", "transformers", "sglang", "deepspeed")
HEAVY_BY_NEED = {
    # Prompts are counted with the model's own tokenizer, and only where the user names a model.
    ("dapo.data.tokens", "transformers"),
}

Import = tuple[str, str]
"""Importer and imported module."""


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("dapo", "services", include_external_packages=True, cache_dir=None)


@pytest.fixture(scope="module")
def imports(graph: grimp.ImportGraph) -> list[Import]:
    """Every import of a module of the house."""
    house = sorted(module for module in graph.modules if within(module, "dapo", "services"))
    return [(module, one) for module in house for one in sorted(graph.find_modules_directly_imported_by(module))]


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def listed(graph: grimp.ImportGraph, found: Sequence[Import], cure: str) -> str:
    """One line for each import, `dapo/a.py:3 imports dapo.b`, and what to do."""
    lines = []
    for importer, imported in found:
        path = importer.replace(".", "/")
        file = f"{path}/__init__.py" if (REPO / path).is_dir() else f"{path}.py"
        details = graph.get_import_details(importer=importer, imported=imported)
        lines.append(f"{file}:{details[0]['line_number'] if details else '?'} imports {imported}")
    return "\n".join([*lines, cure])


def test_no_service_imports_another_and_dapo_none(graph: grimp.ImportGraph, imports: list[Import]) -> None:
    def owner(module: str) -> str:
        return ".".join(module.split(".")[:2]) if within(module, "services") else module.split(".")[0]

    found = [(one, other) for one, other in imports if within(other, "services") and owner(one) != owner(other)]
    assert not found, listed(graph, found, "Move what two services share to dapo; services meet on the bus only.")


def test_nothing_imports_tests_or_benchmarks(graph: grimp.ImportGraph, imports: list[Import]) -> None:
    found = [(one, other) for one, other in imports if within(other, "tests", "benchmarks")]
    assert not found, listed(graph, found, "Move what is needed into dapo or the service.")


def test_dapo_imports_no_engine(graph: grimp.ImportGraph, imports: list[Import]) -> None:
    found = {(one, other) for one, other in imports if within(one, "dapo") and within(other, *HEAVY)}
    wrong = sorted(found - HEAVY_BY_NEED)
    assert not wrong, listed(graph, wrong, "Move it to the service that needs the library, late imports too.")
    assert found >= HEAVY_BY_NEED, f"take {HEAVY_BY_NEED - found} out of HEAVY_BY_NEED"


def test_algo_imports_only_spec_and_contracts(graph: grimp.ImportGraph, imports: list[Import]) -> None:
    house = [(one, other) for one, other in imports if within(one, "dapo.algo") and within(other, "dapo", "services")]
    found = [(one, other) for one, other in house if not within(other, *ALGO_IMPORTS)]
    assert house
    assert not found, listed(graph, found, "Hand the value over as an argument: dapo.algo knows no I/O.")


@pytest.mark.parametrize(("package", "layers"), [("dapo", DAPO), ("dapo.spec", SPEC)], ids=["dapo", "dapo.spec"])
def test_imports_run_downhill(
    graph: grimp.ImportGraph, imports: list[Import], package: str, layers: Sequence[set[str]]
) -> None:
    depth = {f"{package}.{room}": line for line, rooms in enumerate(layers) for room in rooms}
    rooms = graph.find_children(package)
    assert set(depth) == rooms, (
        f"layers of {package} in {__file__}: add {sorted(rooms - set(depth))} on the lowest line that holds, "
        f"take out {sorted(set(depth) - rooms)}"
    )

    def room(module: str) -> str:
        return ".".join(module.split(".")[: package.count(".") + 2])

    found = [
        (one, other)
        for one, other in imports
        if room(one) in depth and room(other) in depth and room(one) != room(other)
        if depth[room(one)] >= depth[room(other)]
    ]
    order = " > ".join(", ".join(sorted(rooms)) for rooms in layers)
    assert not found, listed(graph, found, f"Move what is shared downhill. From the top down: {order}")


def test_no_import_goes_in_a_circle(imports: list[Import]) -> None:
    sorter = graphlib.TopologicalSorter[str]()
    for one, other in imports:
        if within(other, "dapo", "services") and not within(one, "dapo.v1"):
            sorter.add(one, other)
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        circle = " <- ".join(error.args[1])
        pytest.fail(f"imports in a circle: {circle}. Move what both need to a module below them, types too.")


def test_no_rooms_of_a_service_use_each_other(imports: list[Import]) -> None:
    """The sub-packages of a service have an order, too: whoever reads one need not read the other first."""

    def room(module: str) -> str:
        return ".".join(module.split(".")[:3])

    sorter = graphlib.TopologicalSorter[str]()
    for one, other in imports:
        if within(one, "services") and within(other, "services") and room(one) != room(other):
            sorter.add(room(one), room(other))
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        circle = " <- ".join(error.args[1])
        pytest.fail(f"rooms use each other: {circle}. Move what both need to a module below them.")
