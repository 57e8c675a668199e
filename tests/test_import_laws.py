"""The import laws of ARCHITECTURE.md, read from the source."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    p.relative_to(ROOT)
    for package in ("gateway", "instance")
    for p in (ROOT / package).rglob("*.py")
)

CORE_MAY_IMPORT = {
    "abc", "base64", "bisect", "collections", "dataclasses", "difflib", "enum", "errno",
    "fractions", "functools", "hashlib", "heapq", "hmac", "ipaddress", "itertools", "json", "math",
    "operator", "re", "string", "struct", "types", "typing", "urllib",
}  # fmt: skip


def imports(path: Path) -> set[str]:
    """Dotted names of all modules that `path` imports, wherever in the file it does."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_imports_keep_the_laws(path: Path) -> None:
    package, *rest = path.parts
    area = rest[0] if len(rest) > 1 else ""
    for name in imports(path):
        root = name.split(".")[0]
        if area == "core":
            assert root in CORE_MAY_IMPORT or within(name, f"{package}.core"), (
                f"core imports {name}"
            )
        if package == "gateway":
            assert root not in {"instance", "torch"}, f"the gateway imports {name}"
        if package == "instance":
            assert root != "gateway", f"an instance imports {name}"
            if root == "torch":
                assert path == Path("instance/devices.py"), "torch is for devices only"
        if root == "ray":
            assert path.parts[:3] == ("gateway", "up", "on_ray"), f"{path} would load {name}"
        if within(name, "gateway.up.on_ray"):
            # Who starts the helper does not load it; the process that is one does.
            inside = path.parts[:3] == ("gateway", "up", "on_ray")
            assert inside or path == Path("gateway/__main__.py"), f"{path} would load {name}"
        if root == "opentelemetry":
            assert path.name in {"tracing.py", "traced.py"}, f"{path} would load {name}"
        if area == "dataplane":
            assert not within(name, "gateway.controlplane", "pydantic", "sqlite3", "yaml"), name
        if area == "controlplane":
            assert not within(name, "gateway.dataplane"), name
        if package == "gateway" and area == "cli":
            # Which loads aiohttp; what commands need of it they import from where it is.
            assert not within(name, "gateway.client"), name
        if area in {"dataplane", "controlplane", "telemetry", "front", "model", "wire"}:
            outside = (f"{package}.app", f"{package}.cli", f"{package}.up", f"{package}.launcher")
            assert not within(name, *outside), name
        if package == "instance" and area in {"front", "model", "wire"}:
            apart = {
                "front": ("instance.model", "instance.specs"),
                "model": ("instance.front",),
                "wire": ("instance.front", "instance.model", "instance.specs"),
            }
            assert not within(name, *apart[area]), f"{area} imports {name}"
        if package == "gateway" and area in {"wire", "processes", "telemetry"}:
            planes = ("gateway.dataplane", "gateway.controlplane", "gateway.up", "gateway.cli")
            assert not within(name, *planes), f"{area} imports {name}"


def test_nothing_imports_in_a_circle() -> None:
    """Imports for types alone and those inside functions count: who must know whom is the same."""
    modules = {
        ".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in SOURCES
    }
    graph = {name: imports(path) & modules.keys() - {name} for name, path in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" imports ".join(reversed(error.args[1]))) from None


def test_a_worker_loads_nothing_of_what_reads_files_and_serves_the_admin_api() -> None:
    """Or it would take twice as long to be there."""
    code = (
        "import gateway.app, gateway.dataplane.worker, sys;"
        "print({'aiohttp', 'click', 'pydantic', 'yaml'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ran.stdout == "set()\n", ran.stderr


HEAVY = {
    "kubernetes_validate",
    "litserve",
    "openai",
    "ray",
    "scipy",
    "selenium",
    "sklearn",
    "torch",
}


def test_no_file_of_tests_loads_at_once_what_takes_seconds() -> None:
    """Every process of pytest loads every file: `tests.harness.late` is for those."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not HEAVY & {name.split(".")[0] for name in names}, path
            if isinstance(node, ast.Expr | ast.Assign):
                asked = ast.unparse(node.value)
                assert not any(f"importorskip('{name}'" in asked for name in HEAVY), path
