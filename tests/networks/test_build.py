"""Networks by name or import path."""

import pytest
from torch import nn

from plasticity_lightning.networks.build import NETWORKS, build_network
from plasticity_lightning.networks.small import lenet_300_100

__all__ = ["annotated", "broken", "number", "unannotated"]

number = 3


def annotated() -> "nn.Sequential":
    return nn.Sequential()


def unannotated():
    raise AssertionError("it must not be called")


def broken() -> "NoSuchName":  # noqa: F821 - as in a stranger's code
    raise AssertionError("it must not be called")


def test_a_function_that_says_that_it_makes_a_network_is_called():
    assert isinstance(build_network(f"{__name__}.annotated"), nn.Sequential)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_every_name_builds(name):
    arguments = {} if "lenet" in name else {"widths": [2, 2, 2, 2]} if "small" in name else {"width": 2}
    assert isinstance(build_network(name, {"n_classes": 3, **arguments}), nn.Module)


def test_an_import_path_builds_a_strangers_network():
    assert isinstance(build_network("torch.nn.Linear", {"in_features": 2, "out_features": 3}), nn.Linear)
    same = build_network("plasticity_lightning.networks.small.lenet_300_100", {"widths": [5]})
    assert [m.out_features for m in same if isinstance(m, nn.Linear)] == [5, 10]
    assert lenet_300_100 is NETWORKS["lenet_300_100"]


@pytest.mark.parametrize(
    ("name", "arguments", "fault"),
    [
        ("vgg9", {}, "did you mean 'vgg19'"),
        ("no_such_package.net", {}, "cannot be imported: No module named"),
        ("torch.nn.Linaer", {}, "cannot be imported.*Linaer"),
        ("vgg19", {"n_clases": 3}, "network_arguments of vgg19: .*n_clases.*it takes .*n_classes"),
        ("torch.nn.Linear", {"in_features": 2}, "missing a required argument: 'out_features'"),
        (f"{__name__}.number", {}, "is not called"),
        ("builtins.dict", {}, "is not called"),
        ("os.system", {"command": "touch executed"}, "is not called: it does not say that it makes a network"),
        (f"{__name__}.unannotated", {}, "def net"),
        (f"{__name__}.broken", {}, "is not called"),
    ],
)
def test_what_cannot_be_built_is_told(name, arguments, fault):
    with pytest.raises(ValueError, match=fault):
        build_network(name, arguments)
