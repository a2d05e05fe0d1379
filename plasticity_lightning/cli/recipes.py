"""Shipped recipes: where they are, what they are called, and how `--config NAME` becomes `--config FILE`.

A recipe is a YAML file below the recipes folder, named by its path without suffix (`nalsm/quickstart`); its first
comment line says what it shows. In an installed package the folder is `plasticity_lightning/recipes`, in a checkout
`recipes` at the root.
"""

from pathlib import Path

from plasticity_lightning.cli.yaml_bounds import check_yaml
from plasticity_lightning.errors import UserError, nearest

__all__ = ["find_recipe", "list_recipes", "recipes_folder", "resolve_arguments"]


def recipes_folder() -> Path:
    """The folder of the shipped recipes: the packaged one if present, else that of the checkout."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "recipes"
    return packaged if packaged.is_dir() else package.parent / "recipes"


def list_recipes(folder: Path | None = None) -> dict[str, tuple[Path, str]]:
    """All recipes as name -> (file, first comment line), sorted by name.

    Args:
        folder: where to look; None takes `recipes_folder()`.
    """
    folder = recipes_folder() if folder is None else folder
    found = {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.yaml")}
    return {name: (found[name], _title(found[name])) for name in sorted(found)}


def find_recipe(name: str, folder: Path | None = None) -> tuple[Path, str]:
    """The file and the short name of a recipe.

    Args:
        name: a path to a YAML file, or the name of a shipped recipe with or without `.yaml`.
        folder: where the shipped recipes are; None takes `recipes_folder()`.

    Returns:
        (file, name); a file that is no shipped recipe is named by its stem.

    Raises:
        UserError: if there is neither such a file nor such a recipe; names the nearest ones.
    """
    shipped = list_recipes(folder)
    path = Path(name)
    if path.is_file():
        known = {file.resolve(): short for short, (file, _) in shipped.items()}
        return path, known.get(path.resolve(), path.stem)
    short = name.removesuffix(".yaml").removesuffix(".yml")
    if short in shipped:
        return shipped[short][0], short
    raise UserError(
        f"--config {name}: no such file and no shipped recipe of that name{nearest(short, shipped, n=3)} "
        "`plasticity recipes` lists them"
    )


def resolve_arguments(args: list[str], folder: Path | None = None) -> tuple[list[str], str | None]:
    """Replace recipe names after `--config` or `-c` by their files, and put the configs before all other options.

    The parser takes arguments in order: an option given before the config that names its class would be unknown, and one
    that it knows would be overwritten by the config. So configs, in the order given, follow the command, and flags always win.

    Args:
        args: arguments, the command first, without the program name.
        folder: where the shipped recipes are; None takes `recipes_folder()`.

    Returns:
        (command, configs with files, all other arguments in their order; name of the first recipe or None).

    Raises:
        UserError: for an unknown name or a `--config` without value.
    """
    configs: list[str] = []
    others: list[str] = []
    first: str | None = None
    rest = iter(args[1:])
    for arg in rest:
        option, equals, value = arg.partition("=")
        if option not in ("--config", "-c"):
            others.append(arg)
            continue
        if not equals:
            value = next(rest, "")
        if not value:
            raise UserError(f"{option} needs a value: a YAML file or the name of a recipe")
        file, name = find_recipe(value, folder)
        check_yaml(file)
        first = first or name
        configs += ["--config", str(file)]
    return [*args[:1], *configs, *others], first


def _title(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("# "):
                return line[2:].strip()
    return ""
