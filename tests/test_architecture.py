"""Structure of the project: imports, public names, and one tree of errors."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import anon_tune
from anon_tune import errors
from tests.sources import source_files

MODULES = {name: path for name, path in source_files().items() if ".migrations." not in name}


# What is imported when


@pytest.mark.parametrize(
    ("statement", "without"),
    [
        ("import anon_tune", {"torch", "ray", "mlflow", "optuna", "pydantic", "sqlalchemy", "yaml"}),
        (
            "from anon_tune import errors, records, catalogue, architecture",
            {"torch", "ray", "mlflow", "optuna"},
        ),
        ("from anon_tune import spec", {"torch", "ray", "mlflow", "optuna", "sqlalchemy"}),
        ("from anon_tune import ledger", {"torch", "ray", "mlflow", "optuna"}),
        ("from anon_tune.jobs import service", {"torch", "ray", "mlflow", "optuna", "sqlalchemy", "yaml"}),
        ("from anon_tune.jobs import ledger", {"torch", "ray", "mlflow", "optuna", "pandas", "httpx2"}),
        (
            "import anon_tune.workers.problems.tasks, anon_tune.workers.trial.probe, anon_tune.workers.trial.attempt",
            {"ray", "mlflow", "optuna"},
        ),
        # What a driver loads before its first trial: seconds of both cores, in which Ray starts too.
        ("from anon_tune.workers.driver import cluster\ncluster.load()", {"torch", "mlflow", "scipy.stats"}),
    ],
)
def test_an_import_brings_no_more_than_it_needs(statement: str, without: set[str]):
    code = f"{statement}\nimport sys\nprint(*sorted({without!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# What is public


def test_what_the_package_offers_is_there():
    assert sorted(anon_tune.__all__) == dir(anon_tune)
    for name in anon_tune.__all__:
        assert getattr(anon_tune, name) is not None


def test_the_package_offers_every_error():
    assert {name for name in anon_tune.__all__ if name.endswith("Error")} == set(errors.__all__)
    assert all(getattr(anon_tune, name) is getattr(errors, name) for name in errors.__all__)


def test_what_the_package_does_not_offer_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = anon_tune.nothing


# Other packages are used as they are


def third_party_names(tree: ast.Module) -> dict[str, str]:
    """The names that a module's imports bind to parts of other packages, with what each stands for."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {
                alias.asname or alias.name.split(".")[0]: alias.name
                if alias.asname
                else alias.name.split(".")[0]
                for alias in node.names
            }
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    ours = {"anon_tune", *sys.stdlib_module_names}
    return {name: stands_for for name, stands_for in found.items() if stands_for.split(".")[0] not in ours}


def dotted(node: ast.expr) -> list[str]:
    """The names of `a.b.c`; none if it does not begin with a name."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    return [node.id, *names] if isinstance(node, ast.Name) else []


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def private_names_of_ray(tree: ast.Module) -> list[str]:
    """Return private names that a module which imports Ray mentions and that are not its own."""
    names = third_party_names(tree)
    of_ray = {name: path for name, path in names.items() if path.split(".")[0] == "ray"}
    if not of_ray:
        return []
    nodes = list(ast.walk(tree))
    found = [path for path in of_ray.values() if any(map(is_private, path.split(".")))]
    found += [
        node.module for node in nodes if isinstance(node, ast.ImportFrom) and "ray._" in (node.module or "")
    ]
    own = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and dotted(node)[:1] in (["self"], ["cls"])
    }
    own |= defined(tree) | {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    found += [
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own
    ]
    strings = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    found += [
        text for text in strings if re.fullmatch(r"(ray\.(\w+\.)*)?_[a-z]\w*", text) and text not in own
    ]
    keywords = [word.arg or "" for node in nodes if isinstance(node, ast.Call) for word in node.keywords]
    return found + [word for word in keywords if is_private(word)]


def patched(tree: ast.Module) -> list[str]:
    """Return assignments and deletions of a module in other packages' modules and classes."""
    names = third_party_names(tree)
    found = []
    for node in ast.walk(tree):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign | ast.Delete):
            targets = list(node.targets)
        elif isinstance(node, ast.AnnAssign | ast.AugAssign):
            targets = [node.target]
        elif isinstance(node, ast.Call):
            called = dotted(node.func)
            if called == ["setattr"] or called == ["delattr"]:
                targets = [ast.Attribute(node.args[0], "")]
            elif called[-1:] and called[-1] in {"clear", "update", "setdefault", "pop"} and len(called) > 2:
                targets = [node.func]
        for target in targets:
            changed = target.value if isinstance(target, ast.Subscript) else target
            if isinstance(changed, ast.Attribute) and dotted(changed)[:1] and dotted(changed)[0] in names:
                found.append(ast.unparse(target))
    return found


PATCHES = """
import ray
from ray.tune.execution import class_cache
from ray._private.node import Node

class_cache.DEFAULT_ENV_VARS.clear()
class_cache.DEFAULT_ENV_VARS["A"] = "1"
Node.start_monitor = None
setattr(Node, "start_log_monitor", None)
ray.init(_temp_dir="x")
controller = getattr(given, "_tune_controller")
controller._actor_cache.increase_max()
"""


def test_private_names_and_patches_are_found():
    tree = ast.parse(PATCHES)
    assert private_names_of_ray(tree) == [
        "ray._private.node.Node", "ray._private.node", "_actor_cache", "_tune_controller", "_temp_dir",
    ]  # fmt: skip
    assert patched(tree) == [
        "class_cache.DEFAULT_ENV_VARS['A']", "Node.start_monitor", "class_cache.DEFAULT_ENV_VARS.clear", "Node.",
    ]  # fmt: skip


@pytest.mark.parametrize("path", MODULES.values(), ids=MODULES)
def test_no_private_name_of_ray_is_used_and_nothing_of_other_packages_is_replaced(path: Path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert private_names_of_ray(tree) == []
    assert patched(tree) == []


def public(tree: ast.Module) -> list[str] | None:
    """The literal value of a module's `__all__`."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            return list(ast.literal_eval(node.value))
    return None


def defined(tree: ast.Module) -> set[str]:
    """Names that a module's top level binds."""
    found: set[str] = set()
    nodes = list(tree.body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If | ast.Try):
            nodes += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {
                name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)
            }
    return found


def kind(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest; each in order."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


@pytest.mark.parametrize("path", MODULES.values(), ids=MODULES)
def test_public_names_are_sorted_and_exist(path: Path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = public(tree)
    own = {name for name in defined(tree) if not name.startswith("_")}
    if names is None:
        classes = {n.name for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)}
        assert not {name for name in classes if not name.startswith("_")}, "public names need an __all__"
        return
    assert names == sorted(names, key=kind)
    assert len(set(names)) == len(names)
    assert set(names) <= own | {"__version__"}


# One model of the answer


def test_what_the_ledger_keeps_of_an_answer_is_read_in_one_place():
    """All others read the model, `JobRecord.answer`. The list of jobs sorts by one number of it, in SQL."""
    readers = {
        name
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Attribute) and ast.unparse(node) in {"Answer.load", "job.result.get"})
        or (isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith(".result"))
    }
    assert readers == {"anon_tune.records", "anon_tune.ledger.job_list"}


# One tree of errors


def all_errors() -> list[type[errors.AnonTuneError]]:
    return [
        value
        for name in errors.__all__
        if isinstance(value := getattr(errors, name), type) and issubclass(value, errors.AnonTuneError)
    ]


def drawn() -> dict[str, tuple[str | None, int, int]]:
    """Error to (parent, exit code, HTTP status), as the docstring draws them."""
    assert errors.__doc__ is not None
    found: dict[str, tuple[str | None, int, int]] = {}
    above: list[str] = []
    for line in errors.__doc__.splitlines():
        match = re.match(r"    ([│├└─ ]*)(\w+)( \(\w+\))? +exit (\d+) +(\d+)", line)
        if match:
            depth = len(match[1]) // 4
            above[depth:] = [match[2]]
            found[match[2]] = (above[depth - 1] if depth else None, int(match[4]), int(match[5]))
    return found


def test_the_tree_of_errors_is_drawn_as_it_is():
    actual = {
        error.__name__: (
            next((base.__name__ for base in error.__bases__ if issubclass(base, errors.AnonTuneError)), None),
            error.exit_code,
            error.http_status,
        )
        for error in all_errors()
    }
    assert drawn() == actual


def test_every_error_of_the_project_is_in_the_tree():
    """No other module defines one, but for what leaves a loop as an interrupt does, and what pydantic collects."""
    classes = {
        (module, node.name)
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        and [ast.unparse(base) for base in node.bases] not in (["BaseException"], ["ValueError"])
        and any(ast.unparse(base).split(".")[-1].endswith(("Error", "Exception")) for base in node.bases)
    }
    assert classes == {("anon_tune.errors", error.__name__) for error in all_errors()}


@pytest.mark.parametrize("error", all_errors(), ids=lambda error: error.__name__)
def test_an_error_says_what_it_is_and_how_it_ends(error: type[errors.AnonTuneError]):
    assert error.__doc__
    assert 1 <= error.exit_code <= 125
    assert 400 <= error.http_status < 600


def test_builtin_handlers_still_work():
    """Code that knows only Python's own errors catches ours."""
    assert issubclass(errors.InputError, ValueError)
    assert issubclass(errors.NotFoundError, LookupError)
    assert str(errors.SpecError("a.yaml", ["x: is missing", "y: is missing"])) == (
        "a.yaml: x: is missing; y: is missing"
    )
