"""The `plasticity` command: the fast entry, which answers `--version`, `--help` and `recipes` without torch.

Only the commands that train or evaluate import Lightning, in `plasticity_lightning.cli.app`. Exit status: 0 for
success, 2 for a mistake in the input, 130 and 143 for a run that SIGINT or SIGTERM stopped.
"""

import sys

from plasticity_lightning._version import __version__
from plasticity_lightning.cli.recipes import list_recipes, resolve_arguments
from plasticity_lightning.errors import UserError, nearest

__all__ = ["main"]

_COMMANDS = {
    "fit": "train a recipe, then test it",
    "validate": "one pass over the validation data",
    "test": "one pass over the test data",
    "predict": "predictions for the prediction data, into predictions.pt",
    "diagnose": "measures of plasticity of a checkpoint, layer by layer",
    "diagnose-liquid": "branching factor, rates and kernel ranks of a checkpoint's liquid",
    "pruning-plasticity": "prune checkpoints, continue training, compare with the unpruned network",
    "export": "a checkpoint's network as a file that runs by itself: condensed, csr, 2:4 or dense",
    "recipes": "list the shipped recipes",
    "compare": "table and plot over finished runs",
    "prediction-rules": "rules on the prediction task: table and adaptation curves over finished runs",
}


def main(args: list[str] | None = None) -> int:
    """Run the `plasticity` command.

    Args:
        args: arguments without the program name; None takes those of the process.

    Returns:
        The exit status.
    """
    args = list(sys.argv[1:] if args is None else args)
    if not args or args[0] in ("-h", "--help"):
        print(_help())
        return 0
    if args[0] == "--version":
        print(f"plasticity {__version__}")
        return 0
    try:
        _check_command(args[0])
        if args[0] == "recipes":
            return _print_recipes(args[1:])
        if args[0] == "compare":
            from plasticity_lightning.cli.compare import compare

            return compare(args[1:])
        if args[0] == "prediction-rules":
            from plasticity_lightning.cli.prediction_rules import prediction_rules

            return prediction_rules(args[1:])
        args, name = resolve_arguments(args)
    except UserError as error:
        print(f"plasticity: error: {error}", file=sys.stderr)
        return 2
    # torch and Lightning are imported below: seconds
    if args[0] == "diagnose":
        from plasticity_lightning.cli.diagnose import diagnose

        return diagnose(args[1:], recipe=name)
    if args[0] == "export":
        from plasticity_lightning.cli.export import export

        return export(args[1:], recipe=name)
    if args[0] == "diagnose-liquid":
        from plasticity_lightning.cli import diagnose_liquid

        return diagnose_liquid.run(args, recipe=name)
    if args[0] == "pruning-plasticity":
        from plasticity_lightning.cli import pruning_plasticity

        return pruning_plasticity.run(args, recipe=name)
    from plasticity_lightning.cli.app import run

    return run(args, recipe=name)


def _help() -> str:
    lines = [
        "usage: plasticity COMMAND --config RECIPE [--config OVERLAY ...] [options]",
        "",
        "commands:",
        *(f"  {name:<20}{text}" for name, text in _COMMANDS.items()),
        "",
        "RECIPE is a YAML file or the name of a shipped recipe, as `plasticity recipes` lists them.",
        "Several configs merge from left to right; flags such as --trainer.max_epochs 3 win over every config, wherever they stand.",
        "",
        "options:",
        "  --version            the version of the package",
        "  COMMAND --help       the options of a command",
        "  COMMAND --print_config   the complete configuration as YAML",
    ]
    return "\n".join(lines)


def _check_command(command: str) -> None:
    if command in _COMMANDS:
        return
    if command.startswith("-"):
        raise UserError(f"the command comes first, got {command!r}; commands: {', '.join(_COMMANDS)}")
    raise UserError(f"unknown command {command!r}; commands: {', '.join(_COMMANDS)}{nearest(command, _COMMANDS)}")


def _print_recipes(rest: list[str]) -> int:
    if rest in (["-h"], ["--help"]):
        print("usage: plasticity recipes\n\nOne line for each shipped recipe: its name and what it shows.")
        return 0
    if rest:
        raise UserError(f"`plasticity recipes` takes no arguments, got {' '.join(rest)!r}")
    recipes = list_recipes()
    width = max((len(name) for name in recipes), default=0)
    for name, (_, title) in recipes.items():
        print(f"{name:<{width}}  {title}".rstrip())
    return 0
