"""Who may import whom, read from the syntax trees (imports inside functions count); and the checker itself."""

import ast
from pathlib import Path

import pytest

import plasticity_lightning

NAME = "plasticity_lightning"
ROOT = Path(plasticity_lightning.__file__).parent
MECHANISMS = {"measures", "interventions", "sparsity", "spiking", "readouts", "control", "networks"}
ANYWHERE = {"errors", "protocols", "schedules", "_version"}
ALLOWED = {
    "cli": {"studies", "modules", "data", "callbacks", "runtime", "viz"} | MECHANISMS,
    "studies": {"modules", "data", "callbacks", "runtime", "viz"} | MECHANISMS,
    "__main__": {"cli"},
    "modules": {"runtime", "viz"} | MECHANISMS,
    "data": {"runtime", "viz"} | MECHANISMS,
    "callbacks": {"runtime", "viz"} | MECHANISMS,
    "runtime": set(),
    "viz": set(),
    **{mechanism: set() for mechanism in MECHANISMS},
    "interventions": {"measures"},  # an intervention acts on what a measure finds
    **{part: set() for part in ANYWHERE},
    "protocols": {"spiking", "readouts", "measures"},  # protocols name the mechanisms' types
}
FORBIDDEN = ("torchvision", "spikingjelly.datasets")


def imports(tree: ast.Module, package: str) -> set[str]:
    """Full dotted names of all imports, relative ones resolved against `package`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1])
                base = f"{parent}.{base}" if base else parent
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def violations(source: str, relative: str) -> list[str]:
    """What the file at `relative` (path inside the package) does against the table."""
    parts = Path(relative).with_suffix("").parts
    package = ".".join((NAME, *parts[:-1]))
    owner = parts[0]
    if owner == "__init__":
        allowed = set(ALLOWED)
    elif owner in ALLOWED:
        allowed = ALLOWED[owner] | ANYWHERE | {owner}
    else:
        return [f"{relative}: {owner!r} is in no layer"]
    problems = []
    for name in sorted(imports(ast.parse(source), package)):
        if any(name == banned or name.startswith(f"{banned}.") for banned in FORBIDDEN):
            problems.append(f"{relative}: imports {name}")
        if owner in MECHANISMS and name.split(".")[0] in {"lightning", "pytorch_lightning"}:
            problems.append(f"{relative}: a mechanism imports {name}")
        if name.startswith(f"{NAME}."):
            target = name.split(".")[1]
            if target in ALLOWED and target not in allowed:
                problems.append(f"{relative}: {owner} imports {target}")
    return problems


FILES = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py"))


@pytest.mark.parametrize("relative", FILES)
def test_imports_point_downwards(relative):
    assert violations((ROOT / relative).read_text(), relative) == []


@pytest.mark.parametrize("relative", FILES)
def test_module_has_a_docstring_and_all(relative):
    tree = ast.parse((ROOT / relative).read_text())
    assert ast.get_docstring(tree), f"{relative} has no docstring"
    only_a_docstring = relative.endswith("__init__.py") and len(tree.body) == 1
    if Path(relative).name not in {"__main__.py", "_version.py"} and not only_a_docstring:
        names = {t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
        names |= {n.target.id for n in tree.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
        assert "__all__" in names, f"{relative} has no __all__"


def test_no_catch_all_folders():
    banned = {"utils", "util", "common", "helpers", "base"}
    assert [relative for relative in FILES if banned & set(Path(relative).with_suffix("").parts)] == []


@pytest.mark.parametrize(
    ("source", "relative"),
    [
        ("from plasticity_lightning.modules.nalsm import NALSM", "callbacks/a.py"),
        ("def f():\n    import plasticity_lightning.data.images.datasets", "callbacks/a.py"),
        ("from plasticity_lightning import data", "callbacks/a.py"),
        ("from ..spiking import rules", "measures/a.py"),
        ("from ...readouts import ridge", "spiking/liquid/a.py"),
        ("import lightning.pytorch as pl", "spiking/a.py"),
        ("from plasticity_lightning.cli import runs", "studies/a.py"),
        ("from spikingjelly import datasets", "data/a.py"),
        ("import torchvision", "data/a.py"),
        ("", "helpers/a.py"),
    ],
)
def test_checker_sees_a_violation(source, relative):
    assert len(violations(source, relative)) == 1


@pytest.mark.parametrize(
    ("source", "relative"),
    [
        ("from plasticity_lightning.spiking.rules import stdp", "modules/a.py"),
        ("from ..rules import stdp", "spiking/liquid/a.py"),
        ("from plasticity_lightning.errors import X", "measures/a.py"),
        ("import lightning.pytorch as pl", "callbacks/a.py"),
        ("import torchvision_like", "data/a.py"),
    ],
)
def test_checker_accepts_what_is_allowed(source, relative):
    assert violations(source, relative) == []
