"""The directions and doors of the design, read from the source with `ast`, and how fast each `--help` answers."""

import ast
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A package and those it may import nothing from: `search` and `ensemble` meet on disk only.
FORBIDDEN = {
    "core": {"search", "ensemble", "benchmarks"},
    "search": {"ensemble", "benchmarks"},
    "ensemble": {"search", "benchmarks"},
    "benchmarks": set(),
}
# A dependency and the only places that may import it. Benchmarks are exempt: they time what a user would write.
DOORS = {
    "ffcv": ("core/beton.py", "core/loaders.py"),
    "timm": ("core/archs.py", "core/backbones.py", "core/classifier.py", "core/folding.py", "core/weights.py"),
    "optuna": ("search/",),
    "optuna_dashboard": ("search/",),
    "joblib": ("search/backends.py",),
    "onnx": ("ensemble/onnx_file.py", "ensemble/quantising.py"),
    "onnxruntime": ("ensemble/onnx_session.py", "ensemble/quantising.py"),
    "pooch": ("core/download.py", "core/resuming.py"),
    "requests": ("core/resuming.py", "core/transfer.py"),
    "dask": ("search/backends.py",),
    "distributed": ("search/backends.py",),
    "fsspec": ("core/remote.py",),
    "lightly": ("core/selfsupervised.py",),
    "psycopg": ("search/database.py",),
    "sqlalchemy": ("search/database.py", "search/database_leases.py"),
}
# Reading any of these can run code, and a study folder may come from a stranger.
UNSAFE_MODULES = {"pickle", "cloudpickle", "dill", "shelve", "marshal"}
HEAVY = {
    "lightly",
    "onnx",
    "onnxruntime",
    "sqlalchemy",
    "torch",
    "torchvision",
    "timm",
    "ffcv",
    "numba",
    "optuna",
    "sklearn",
    "matplotlib",
}
# Seconds of processor time: wall time would measure the neighbours.
HELP_LIMIT_S = 0.5

Sources = dict[str, ast.Module]  # path relative to the clone, with slashes → its tree


def read_sources(root: Path) -> Sources:
    paths = (path for package in FORBIDDEN for path in sorted((root / package).rglob("*.py")))
    return {path.relative_to(root).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def imported_names(statement: ast.stmt) -> list[str]:
    """Full names that one statement may import; `from a import b` gives `a` and `a.b`, as b may be a module."""
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    if isinstance(statement, ast.ImportFrom) and statement.module:
        return [statement.module, *(f"{statement.module}.{alias.name}" for alias in statement.names)]
    return []


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def statements(node: ast.AST, *, on_import_only: bool) -> Iterator[ast.stmt]:
    """All statements below `node`; with `on_import_only` those that run when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child
        deferred = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) or is_type_checking(child)
        if not (on_import_only and deferred):
            yield from statements(child, on_import_only=on_import_only)


def imports(tree: ast.Module, *, on_import_only: bool = False) -> Iterator[tuple[int, str]]:
    for statement in statements(tree, on_import_only=on_import_only):
        for name in imported_names(statement):
            yield statement.lineno, name


def direction_violations(sources: Sources) -> Iterator[str]:
    for path, tree in sources.items():
        package = path.split("/")[0]
        for line, name in imports(tree):
            if name.split(".")[0] in FORBIDDEN[package]:
                yield f"{path}:{line} imports {name}: {package} must not know {name.split('.')[0]}"


def door_violations(sources: Sources) -> Iterator[str]:
    for path, tree in sources.items():
        if path.startswith("benchmarks/"):
            continue
        for line, name in imports(tree):
            doors = DOORS.get(name.split(".")[0])
            if doors and not path.startswith(doors):
                yield f"{path}:{line} imports {name}: only {' and '.join(doors)} may"


def unsafe_violations(sources: Sources) -> Iterator[str]:
    for path, tree in sources.items():
        for line, name in imports(tree):
            if name.split(".")[0] in UNSAFE_MODULES or name in {"torch.load", "joblib.load"}:
                yield f"{path}:{line} imports {name}: reading it can run code"
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            name = ast.unparse(call.func)
            if name == "torch.load" and keywords.get("weights_only") != "True":
                yield f"{path}:{call.lineno} calls torch.load without weights_only=True"
            if keywords.get("allow_pickle", "False") != "False" or name.endswith((".read_pickle", "joblib.load")):
                yield f"{path}:{call.lineno} reads a pickle with {name}"


def is_command_line(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'" for node in tree.body)


def module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").removesuffix("/__main__").replace("/", ".")


def command_lines(sources: Sources) -> list[str]:
    return [module_name(path) for path, tree in sources.items() if is_command_line(tree)]


def own_modules(name: str, paths: dict[str, str]) -> list[str]:
    """The paths of our modules that importing `name` executes, its packages' first."""
    parts = name.split(".")
    prefixes = (".".join(parts[:length]) for length in range(1, len(parts) + 1))
    return [paths[prefix] for prefix in prefixes if prefix in paths]


def heavy_violations(sources: Sources) -> Iterator[str]:
    """Follows what importing a command line imports, through our own modules, to anything heavy."""
    paths = {module_name(path): path for path in sources}
    for command in command_lines(sources):
        chains = {path: path for path in own_modules(command, paths)}
        waiting = list(chains)
        while waiting:
            path = waiting.pop()
            for line, name in imports(sources[path], on_import_only=True):
                if name.split(".")[0] in HEAVY:
                    yield f"{chains[path]}:{line} imports {name} before {command} has parsed its arguments"
                for other in own_modules(name, paths):
                    if other not in chains:
                        chains[other] = f"{chains[path]}:{line} → {other}"
                        waiting.append(other)


RULES = {
    "directions": direction_violations,
    "doors": door_violations,
    "unsafe": unsafe_violations,
    "heavy": heavy_violations,
}
SOURCES = read_sources(ROOT)
COMMAND_LINES = command_lines(SOURCES)
MAIN = "if __name__ == '__main__':\n    run()"


@pytest.mark.parametrize("rule", RULES)
def test_sources_keep_the_rule(rule: str) -> None:
    assert list(RULES[rule](SOURCES)) == []


@pytest.mark.parametrize(
    ("rule", "path", "source", "expected"),
    [
        ("directions", "core/a.py", "import search.space", "core must not know search"),
        ("directions", "core/a.py", "def f():\n    from ensemble import voting", "core must not know ensemble"),
        ("directions", "search/a.py", "from ensemble.voting import blend", "search must not know ensemble"),
        ("directions", "ensemble/a.py", "if x:\n    import search", "ensemble must not know search"),
        ("doors", "core/trainer.py", "def f():\n    import ffcv.loader", "only core/beton.py and core/loaders.py may"),
        (
            "doors",
            "search/run.py",
            "from timm import create_model",
            "only core/archs.py and core/backbones.py",
        ),
        ("doors", "core/trainer.py", "import optuna as o", "only search/ may"),
        ("doors", "search/objective.py", "import joblib", "only search/backends.py may"),
        ("unsafe", "core/a.py", "import pickle", "reading it can run code"),
        ("unsafe", "core/a.py", "from torch import load", "reading it can run code"),
        ("unsafe", "core/a.py", "torch.load(path)", "torch.load without weights_only=True"),
        ("unsafe", "core/a.py", "torch.load(path, weights_only=False)", "torch.load without weights_only=True"),
        ("unsafe", "core/a.py", "np.load(path, allow_pickle=True)", "reads a pickle with np.load"),
        ("heavy", "search/run.py", f"import torch\n{MAIN}", "imports torch before search.run has parsed"),
        ("heavy", "search/run.py", f"try:\n    import optuna\nfinally: ...\n{MAIN}", "imports optuna before"),
    ],
)
def test_checker_catches_a_planted_violation(rule: str, path: str, source: str, expected: str) -> None:
    violations = list(RULES[rule]({path: ast.parse(source)}))

    assert violations
    assert all(violation.startswith(f"{path}:") and expected in violation for violation in violations)


def test_checker_follows_a_command_line_through_our_own_modules() -> None:
    files = {
        "search/__init__.py": "",
        "search/run.py": f"from core import device\n{MAIN}",
        "core/device.py": "import core.metrics",
        "core/metrics.py": "import torch",
    }
    sources = {path: ast.parse(source) for path, source in files.items()}

    (violation,) = heavy_violations(sources)

    assert violation.startswith("search/run.py:1 → core/device.py:1 → core/metrics.py:1 imports torch")


@pytest.mark.parametrize("rule", RULES)
def test_checker_allows_what_the_design_allows(rule: str) -> None:
    files = {
        "core/loaders.py": "def f():\n    import ffcv\n    torch.load(path, weights_only=True)\n    np.load(path)",
        "core/trainer.py": "import torch",
        "search/run.py": f"import core.cli\ndef main():\n    import core.trainer, optuna\n{MAIN}",
        "ensemble/voting.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch",
        "benchmarks/plain.py": "import timm, search.space, ensemble.voting",
    }

    assert list(RULES[rule]({path: ast.parse(source) for path, source in files.items()})) == []


def test_the_command_lines_of_the_design_are_found() -> None:
    assert {"core.datasets", "core.backbones", "search.run", "ensemble.build", "ensemble.predict"} <= set(COMMAND_LINES)


@pytest.mark.parametrize("module", COMMAND_LINES)
def test_help_answers_under_half_a_second(module: str) -> None:
    times = []
    # The best of three: a first call reads cold files, and busy neighbours cost processor time too.
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr
        assert "usage:" in done.stdout
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        if min(times) < HELP_LIMIT_S:
            break

    assert min(times) < HELP_LIMIT_S
