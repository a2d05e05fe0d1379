"""No shipped recipe or overlay without an end-to-end test: what watches the other tests of this folder is tested here."""

from __future__ import annotations

from pathlib import Path

import pytest

from plasticity_lightning.cli.recipes import list_recipes, resolve_arguments
from tests.recipes.covered import never_run, recorder, whole_session

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("command", "status", "expected"),
    [
        ("fit", 0, ["nalsm/mnist", "nalsm/overlays/frozen"]),
        ("fit", 2, []),  # refused
        ("fit", 143, []),  # stopped
        ("test", 0, []),  # trains nothing
    ],
)
def test_the_configs_of_a_fit_that_succeeds_are_taken_down(
    command: str, status: int, expected: list[str], tmp_path: Path
) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("model: null")
    given = [
        command,
        "--config",
        "nalsm/mnist",
        f"--config={own}",
        "-c",
        "nalsm/overlays/frozen",
        "--seed_everything=1",
    ]
    taken: list[str] = []
    arguments, name = resolve_arguments(given)
    assert recorder(lambda args, recipe: status, taken.append)(arguments, recipe=name) == status
    assert taken == expected


def test_what_is_missing_is_named() -> None:
    shipped = list(list_recipes())
    assert never_run(shipped) == []
    assert never_run([]) == shipped
    assert never_run(shipped[1:]) == shipped[:1]


@pytest.mark.parametrize(
    ("arguments", "keyword", "status", "expected"),
    [
        (["tests"], "", 0, True),
        (["tests/recipes"], "", 1, True),
        (["tests/cli", "tests/recipes"], "", 0, True),
        (["tests/cli"], "", 0, False),
        (["tests/recipes/test_nalsm.py"], "", 0, False),
        (["tests/recipes/test_nalsm.py::test_recipe"], "", 0, False),
        (["tests"], "nalsm", 0, False),
        (["tests"], "", 2, False),  # interrupted
    ],
)
def test_only_a_session_over_all_of_them_is_judged(
    arguments: list[str], keyword: str, status: int, expected: bool
) -> None:
    assert whole_session(arguments, ROOT, keyword, status) is expected


def test_the_root_conftest_has_the_hooks() -> None:
    from tests import conftest
    from tests.recipes import covered

    hooks = [name for name in covered.__all__ if name.startswith("pytest_")]
    assert len(hooks) == 3
    assert [getattr(conftest, name) for name in hooks] == [getattr(covered, name) for name in hooks]
