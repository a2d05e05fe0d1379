"""Any network from a recipe: one of the package's by its short name, or a stranger's by import path.

`build_network("cifar_resnet50", {"n_classes": 100})`, `build_network("timm.create_model", {"model_name": "resnet18"})`
and `build_network("torchvision.models.resnet18", {"num_classes": 10})` are calls of one kind. What a path names is called only
if it says that it makes a network: a class of modules, or a function whose return type is one. Importing the path's package
runs that package's code all the same: a recipe is to be trusted like a script.
"""

import importlib
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from plasticity_lightning.errors import nearest
from plasticity_lightning.networks.resnet import cifar_resnet20, cifar_resnet50, resnet50
from plasticity_lightning.networks.small import lenet_300_100, small_conv_net
from plasticity_lightning.networks.vgg import vgg19

__all__ = ["NETWORKS", "build_network"]

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "cifar_resnet20": cifar_resnet20,
    "cifar_resnet50": cifar_resnet50,
    "lenet_300_100": lenet_300_100,
    "resnet50": resnet50,
    "small_conv_net": small_conv_net,
    "vgg19": vgg19,
}


def build_network(name: str, arguments: Mapping[str, Any] | None = None) -> nn.Module:
    """Build a network.

    Args:
        name: key of `NETWORKS`, or the import path of a subclass of `nn.Module` or of a function annotated to return one.
        arguments: its keyword arguments.

    Returns:
        The network.

    Raises:
        ValueError: if there is no such name or path, it does not say that it makes a module, the arguments do not fit, or what
            is returned is no module after all.
    """
    arguments = dict(arguments or {})
    factory = NETWORKS[name] if name in NETWORKS else _imported(name)
    _check_arguments(name, factory, arguments)
    network = factory(**arguments)
    if not isinstance(network, nn.Module):
        raise ValueError(f"network={name!r} returned a {type(network).__name__}; it must return a torch.nn.Module")
    return network


def _imported(path: str) -> Callable[..., Any]:
    module_name, dot, attribute = path.rpartition(".")
    if not dot:
        raise ValueError(
            f"network={path!r}: allowed are {', '.join(sorted(NETWORKS))} or an import path such as "
            f"'timm.create_model'{nearest(path, NETWORKS)}"
        )
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"network={path!r} cannot be imported: {error}") from error
    if not _makes_modules(factory):
        raise ValueError(
            f"network={path!r} is not called: it does not say that it makes a network. Allowed are subclasses of torch.nn.Module "
            "and functions annotated to return one; wrap another function in one of your own, `def net(...) -> torch.nn.Module`"
        )
    return factory


def _makes_modules(factory: Any) -> bool:
    if isinstance(factory, type):
        return issubclass(factory, nn.Module)
    if not callable(factory):
        return False
    try:
        made = typing.get_type_hints(factory).get("return")
    except Exception:  # whatever evaluating a stranger's annotations may raise
        return False
    return isinstance(made, type) and issubclass(made, nn.Module)


def _check_arguments(name: str, factory: Callable[..., Any], arguments: dict[str, Any]) -> None:
    try:
        signature = inspect.signature(factory)
    except ValueError:  # written in C: it checks for itself
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ValueError(f"network_arguments of {name}: {error}; it takes {signature}") from None
