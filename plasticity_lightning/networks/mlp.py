"""Multi-layer perceptron of equally wide hidden layers, with its nonlinearities as modules that hooks can see."""

from collections import OrderedDict
from typing import Literal, get_args

from torch import nn

__all__ = ["ACTIVATIONS", "MLP", "Activation"]

Activation = Literal["relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


class MLP(nn.Sequential):
    """Input [B, ...] flattened, `depth` hidden layers `hidden_i` with nonlinearity `act_i` (i from 1), linear `output`.

    Args:
        in_features: numbers per sample, at least 1.
        out_features: outputs, at least 1.
        width: units of a hidden layer, at least 1.
        depth: hidden layers, at least 0; 0 is a linear map.
        activation: nonlinearity after each hidden layer.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self, in_features: int, out_features: int, width: int = 100, depth: int = 2, activation: Activation = "relu"
    ) -> None:
        for name, value, least in (
            ("in_features", in_features, 1),
            ("out_features", out_features, 1),
            ("width", width, 1),
            ("depth", depth, 0),
        ):
            if value < least:
                raise ValueError(f"{name}={value}: must be at least {least}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation={activation!r}: allowed are {', '.join(map(repr, get_args(Activation)))}")
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        for i in range(1, depth + 1):
            layers[f"hidden_{i}"] = nn.Linear(in_features if i == 1 else width, width)
            layers[f"act_{i}"] = ACTIVATIONS[activation]()
        layers["output"] = nn.Linear(width if depth else in_features, out_features)
        super().__init__(layers)
