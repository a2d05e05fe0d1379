"""Sessions of the project: demo, tests, lint, docs, bench, strangers.

Nox gives each session an environment of its own; with a torch of several gigabytes that is paid once per session.
So the sessions here share one, `.nox/plasticity`, built with uv where it is present and with virtualenv elsewhere.
`docs` and `strangers` have their own.
"""

import importlib.util
import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "tests"]

ROOT = Path(__file__).parent
SHARED = ROOT / ".nox" / "plasticity"
PYTHON = SHARED / "bin" / "python"
STRANGERS = (
    "timm",
    "transformers",
    "torch_geometric",
    "chemprop",
    "pytorch-forecasting",
    "scvi-tools",
    "lightly",
    "diffusers",
    "snntorch",
    "neuralforecast",
)


def find_uv() -> str | None:
    if importlib.util.find_spec("uv") is not None:
        from uv import find_uv_bin

        return find_uv_bin()
    return shutil.which("uv")


def install(session: nox.Session, requirement: str) -> None:
    """Bring the shared environment up to `requirement`, creating it if it is not there."""
    uv = find_uv()
    supported = (3, 11) <= sys.version_info[:2] < (3, 14)
    if not PYTHON.exists():
        if uv:
            wanted = sys.executable if supported else ">=3.11,<3.14"
            session.run(uv, "venv", "--python", wanted, str(SHARED), external=True)
        elif supported:
            session.run(sys.executable, "-m", "virtualenv", str(SHARED), external=True)
        else:
            session.error(
                f"Python 3.11, 3.12 or 3.13 is needed, this is {sys.version.split()[0]}; install uv to have one found."
            )
    if uv:
        session.run(uv, "pip", "install", "--python", str(PYTHON), "-e", requirement, external=True)
    else:
        session.run(str(PYTHON), "-m", "pip", "install", "-e", requirement, external=True)


@nox.session(venv_backend="none")
def demo(session: nox.Session) -> None:
    """Train NALSM on the embedded digits, no download."""
    install(session, ".")
    session.run(
        str(SHARED / "bin" / "plasticity"), "fit", "--config", "nalsm/quickstart", *session.posargs, external=True
    )


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Run pytest on all cores, at most four; arguments after `--` go to it, `-n 0` keeps it in one process."""
    install(session, ".[dev]")
    parallel = ("-n", "auto", "--maxprocesses", "4")
    session.run(str(PYTHON), "-m", "pytest", *parallel, *session.posargs, external=True)


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    """Check style, format and types."""
    install(session, ".[dev]")
    session.run(str(PYTHON), "-m", "ruff", "check", ".", external=True)
    session.run(str(PYTHON), "-m", "ruff", "format", "--check", ".", external=True)
    session.run(str(PYTHON), "-m", "mypy", external=True)


@nox.session
def strangers(session: nox.Session) -> None:
    """Every callback on networks of other packages: the table of docs/guides/works-with.md. Downloads a few gigabytes."""
    session.install("-e", ".", *STRANGERS)
    session.run("python", "tests/strangers/works_with.py", "--output", "docs/guides/works-with.md", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; every warning is an error."""
    session.install("mkdocs-material>=9.5", "mkdocstrings[python]>=0.27", "ruff")
    session.run("mkdocs", "build", "--strict", *session.posargs)


@nox.session(venv_backend="none")
def bench(session: nox.Session) -> None:
    """Run every script in benchmarks/ in its quick form."""
    install(session, ".[dev]")
    scripts = sorted((ROOT / "benchmarks").glob("*.py"))
    if not scripts:
        session.error("benchmarks/ holds no script.")
    for script in scripts:
        session.run(str(PYTHON), str(script), "--quick", *session.posargs, external=True)
