"""The house rules, read off the source: who may import whom, who may print, reach the network or start a process."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("mmkd_core", "feature_store")
MODULES = sorted(path.relative_to(ROOT).as_posix() for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
PLUGIN_MODULES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "plugins").glob("*/src/**/*.py"))

FLOORS = [
    {"__main__"},
    {"cli"},
    {"integrate"},
    {"report"},
    {"audit", "study"},
    {"evaluate", "distill"},
    {"extract", "trust", "student", "testing"},
    {"plugins", "data"},
    {"contract"},
    {"files", "settings"},
    {"statistics", "progress", "errors", "advice"},
]
HEIGHT = {room: len(FLOORS) - number for number, floor in enumerate(FLOORS) for room in floor}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse((ROOT / module).read_text(encoding="utf-8"), module)


def imported(module: str, *, inside_functions: bool = True) -> Iterator[tuple[str, int]]:
    """Full names that a module imports, with lines; ``from a import b`` gives ``a.b``."""
    for node in _walk(tree(module), inside_functions):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: imports are absolute"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def _walk(node: ast.AST, inside_functions: bool) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        if inside_functions or not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from _walk(child, inside_functions)


def runtime(module: str) -> set[str]:
    """Top-level packages that are imported with the module: outside functions and ``if TYPE_CHECKING``."""
    found = set()
    pending: list[ast.AST] = [tree(module)]
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
        pending += ast.iter_child_nodes(node)
    return found


def users(name: str) -> set[str]:
    """Modules of the product that import the package anywhere."""
    return {module for module in MODULES for full, _ in imported(module) if full.split(".")[0] == name}


def room_of(module: str) -> str:
    return module.split("/")[1].removesuffix(".py")


def calls(module: str) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_the_rules_see_the_source():
    """A rule over an empty list would always hold."""
    assert len(MODULES) > 60
    assert {room_of(module) for module in MODULES if module.startswith("mmkd_core/")} > {
        "contract",
        "plugins",
        "distill",
    }
    assert "torch.nn.functional" in {name for name, _ in imported("mmkd_core/distill/losses.py")}
    assert "torch" in runtime("mmkd_core/distill/losses.py")
    assert "torch" not in runtime("mmkd_core/contract/teacher.py")


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("mmkd_core/")])
def test_a_room_imports_only_from_floors_below(module):
    room = room_of(module)
    if module == "mmkd_core/__init__.py":
        assert not [name for name, _ in imported(module) if name.startswith("mmkd_core")]
        return
    assert room in HEIGHT, f"{module}: this room has no floor"
    wrong = []
    for name, line in imported(module):
        parts = name.split(".")
        if parts[0] != "mmkd_core" or len(parts) < 2 or parts[1] == room or parts[1] == "__version__":
            continue
        if HEIGHT.get(parts[1], 99) >= HEIGHT[room]:
            wrong.append(f"{module}:{line} imports {name}")
    assert not wrong


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("mmkd_core/distill/")])
def test_distill_sees_features_and_never_teachers(module):
    names = {name for name, _ in imported(module)}
    assert not {name for name in names if name.startswith(("mmkd_core.plugins", "mmkd_core.contract"))}


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("feature_store/")])
def test_the_store_stands_alone(module):
    packages = {name.split(".")[0] for name, _ in imported(module)}
    assert "mmkd_core" not in packages
    if module != "feature_store/torch.py":
        assert "torch" not in packages


@pytest.mark.parametrize("module", PLUGIN_MODULES)
def test_a_plugin_needs_the_contract_and_at_most_the_loaders(module):
    """And none needs another plugin. What a loader imports, the plugin's own module imports inside functions."""
    names = {name for name, _ in imported(module)}
    ours = {name for name in names if name.startswith(("mmkd_core", "feature_store"))}
    allowed = ("mmkd_core.contract.", "mmkd_core.plugins.loaders.")
    assert all(f"{name}.".startswith(allowed) for name in ours), ours
    package = module.split("/src/")[1].split("/")[0]
    assert not {name for name in names if name.startswith("mmkd_") and name.split(".")[0] not in ("mmkd_core", package)}
    if module.endswith("__init__.py"):
        assert not runtime(module) & {"torch", "open_clip", "transformers", "timm", "PIL", package}


def test_one_module_fetches_and_one_sends():
    only = {"mmkd_core/plugins/downloads.py", "mmkd_core/student/push.py"}
    assert users("huggingface_hub") <= only
    for package in ("requests", "httpx", "aiohttp", "ssl", "ftplib", "webbrowser"):
        assert users(package) <= only, package
    assert users("socket") <= {"mmkd_core/plugins/worker.py"}  # which closes them to others
    for module in MODULES:
        names = {name for name, _ in imported(module)}
        assert module in only or not any(n.startswith(("urllib.request", "http.client")) for n in names), module


def test_one_module_runs_pip_or_uv():
    """Their names as words of a command: a string of its own, not a word in a sentence."""
    found = {
        module
        for module in MODULES
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Constant) and node.value in ("pip", "uv")
    }
    assert found == {"mmkd_core/plugins/installer.py"}
    assert users("pip") == set()


def test_four_modules_start_processes():
    names = ("plugins/installer", "plugins/isolated", "plugins/isolation", "student/parity")
    assert users("subprocess") == {f"mmkd_core/{name}.py" for name in names}
    forbidden = ("os.system", "os.popen", "os.exec", "os.spawn", "os.posix_spawn", "pty.spawn")
    assert not [(module, name) for module in MODULES for name, _ in calls(module) if name.startswith(forbidden)]


def test_only_cli_prints():
    printing = {module for module in MODULES + PLUGIN_MODULES for name, _ in calls(module) if name == "print"}
    assert {module for module in printing if not module.startswith("mmkd_core/cli/")} == set()
    writing = {m for m in MODULES for name, _ in calls(m) if name.startswith(("sys.stdout.", "sys.stderr."))}
    assert {m for m in writing if not m.startswith("mmkd_core/cli/")} <= {"mmkd_core/plugins/isolated.py"}


@pytest.mark.parametrize("name", ["protocol", "worker"])
def test_the_worker_of_an_isolated_teacher_needs_nothing_of_mmkd(name):
    """Its environment has whatever the plugin wants, and no pydantic, no numpy and no mmkd."""
    allowed = {*sys.stdlib_module_names} - {"tomllib"}
    assert runtime(f"mmkd_core/plugins/{name}.py") <= allowed


@pytest.mark.parametrize("module", MODULES)
def test_heavy_libraries_are_imported_inside_functions(module):
    heavy = {"open_clip", "transformers", "timm", "tokenizers", "huggingface_hub"}
    assert not runtime(module) & heavy


def test_open_clip_and_transformers_are_for_loaders_the_student_and_tiny_weights():
    homes = ("mmkd_core/plugins/loaders/", "mmkd_core/student/", "mmkd_core/testing/tiny.py")
    for package in ("open_clip", "transformers"):
        wrong = {module for module in users(package) if not module.startswith(homes)}
        assert wrong == set(), package


def test_nothing_unpickles():
    for package in ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"):
        assert users(package) == set(), package
    for module in MODULES + PLUGIN_MODULES:
        for name, call in calls(module):
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            if name == "torch.load":
                assert options.get("weights_only") == "True", f"{module}:{call.lineno}"
            assert options.get("allow_pickle", "False") == "False", f"{module}:{call.lineno}"
            assert options.get("trust_remote_code", "False") == "False", f"{module}:{call.lineno}"


@pytest.mark.parametrize("module", MODULES + PLUGIN_MODULES)
def test_modules_say_what_they_do_and_are_short(module):
    assert ast.get_docstring(tree(module)), f"{module} has no docstring"
    lines = len((ROOT / module).read_text(encoding="utf-8").splitlines())
    assert lines <= 350, f"{module} has {lines} lines"


@pytest.mark.parametrize(
    "name",
    [
        "pyproject.toml",
        "README.md",
        "registry.yaml",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        ".ci/run",
        "mmkd_core",
        "feature_store",
        "plugins",
        "tests",
        "benchmarks",
        "examples",
        "docs/decisions",
    ],
)
def test_the_tree_has_what_the_design_names(name):
    path = ROOT / name
    assert path.exists()
    if path.is_dir():
        assert any(child.is_file() for child in path.rglob("*")), f"{name} is empty"


@pytest.mark.parametrize(
    "modules",
    [
        "mmkd_core.contract",
        "mmkd_core.plugins",
        "mmkd_core.cli",
        "mmkd_core.testing, mmkd_core.testing.scaffold",
        "mmkd_core.data.manifest",
        "mmkd_core.student.config, mmkd_core.distill.config",
    ],
)
def test_importing_is_without_torch(modules):
    code = f"import sys, {modules}; print(sorted({{'torch', 'open_clip', 'transformers'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
