"""Which shipped recipes and overlays the tests have trained, seen from the command that resolved them; checked when all tests have run.

Each test of `tests/recipes` takes down the configs of every `fit` that ended with status 0. The names travel with the test's report, so that the
process that collects reports, the only one or the one that leads pytest-xdist's workers, knows all of them at the end of the session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from plasticity_lightning.cli.recipes import list_recipes

__all__ = [
    "PROPERTY",
    "never_run",
    "pytest_runtest_logreport",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "recorder",
]

PROPERTY = "recipes"
_WHOLE = ("", "not slow and not gpu")  # choices of marks with which every recipe must be trained
_RUN: set[str] = set()
_MISSING: list[str] = []


def recorder(run: Callable[..., int], record: Callable[[str], None]) -> Callable[..., int]:
    """`cli.app.run`, which also records the shipped configs of a `fit` that succeeds."""
    names = {path.resolve(): name for name, (path, _) in list_recipes().items()}

    def recorded(args: list[str], recipe: str | None = None) -> int:
        status = run(args, recipe)
        if args[0] == "fit" and status == 0:
            configs = [Path(value).resolve() for option, value in pairwise(args) if option == "--config"]
            for config in configs:
                if config in names:
                    record(names[config])
        return status

    return recorded


def never_run(run: Iterable[str]) -> list[str]:
    """The shipped recipes and overlays that are not among `run`."""
    return sorted(set(list_recipes()) - set(run))


def whole_session(arguments: Sequence[str], root: Path, keyword: str, status: int) -> bool:
    """Whether the session ran all tests of the recipes to their end: neither chosen by name nor by a part of the folder, nor broken off."""
    chosen = {(root / argument).resolve() for argument in arguments if "::" not in argument}
    folder = Path(__file__).resolve().parent
    return not keyword and status in (0, 1) and any(folder == path or path in folder.parents for path in chosen)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.passed:
        _RUN.update(str(value) for name, value in report.user_properties if name == PROPERTY)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    config = session.config
    stopped = bool(config.option.maxfail) and exitstatus != 0
    chosen = config.option.collectonly or config.getoption("lf", False) or config.option.deselect
    if hasattr(config, "workerinput") or chosen or stopped or config.option.markexpr not in _WHOLE:
        return
    if whole_session(config.args, Path(config.invocation_params.dir), config.option.keyword, int(exitstatus)):
        _MISSING.extend(never_run(_RUN))
        if _MISSING:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _MISSING:
        terminalreporter.section("recipes and overlays that no end-to-end test has trained", red=True)
        terminalreporter.line("\n".join(_MISSING))
