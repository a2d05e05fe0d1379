"""Cost of PruneRegrowScheduler's work on a CIFAR ResNet-20: masked steps against dense steps, and one update of the masks.

Dense and masked steps alternate in one run on one thread; the ratio is that of the medians. `--quick` takes few steps.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from plasticity_lightning.sparsity.methods import make_method
from plasticity_lightning.sparsity.plan import resolve
from plasticity_lightning.sparsity.selection import select_parameters
from plasticity_lightning.sparsity.sparse_parameters import SparseParameters


class Block(nn.Module):
    """Two 3 x 3 convolutions with a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = inputs == outputs and stride == 1
        self.skip: nn.Module = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, H, W] -> [B, out, H / stride, W / stride]."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.skip(x))


def resnet20(width: int) -> nn.Sequential:
    blocks: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    inputs = width
    for stage in range(3):
        for index in range(3):
            outputs = width * 2**stage
            blocks.append(Block(inputs, outputs, 2 if stage and not index else 1))
            inputs = outputs
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few steps: shows that it runs, not how fast")
    parser.add_argument("--width", type=int, default=16, help="channels of the first stage")
    parser.add_argument("--batch", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    n_steps, batch = (3, 16) if options.quick else (15, options.batch)
    x, y = torch.randn(batch, 3, 32, 32), torch.randint(0, 10, (batch,))
    net = resnet20(options.width)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    weights = select_parameters(net)
    # events at 1,000,000 and 2,000,000 steps: none while masked steps are timed
    plan = resolve(make_method("granet_s2s", every=1_000_000), 4_000_000, None)
    sparse = SparseParameters(optimizer, weights, plan)
    sparse.initialise()

    def step(masked: bool) -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        if masked:
            sparse.before_step()
        optimizer.step()
        if masked:
            sparse.after_step()

    def update() -> None:
        sparse.step = 999_999
        sparse.before_step()
        sparse.after_step()

    def masking() -> None:
        sparse.before_step()
        sparse.after_step()

    step(True)
    dense, masked, updates, maskings = [], [], [], []
    for _ in range(n_steps):
        dense.append(seconds(lambda: step(False)))
        masked.append(seconds(lambda: step(True)))
        maskings.append(seconds(masking))
        updates.append(seconds(update))
    base = statistics.median(dense)
    n_weights = sum(p.numel() for p in weights.values())
    print(f"ResNet-20, width {options.width}, {n_weights:,} masked weights, batch {batch}, 1 thread, {n_steps} of each")
    print(f"dense step {base * 1e3:.1f} ms")
    print(f"masked step between updates / dense step: {statistics.median(masked) / base:.3f}")
    # on a busy machine steps differ by more than masking costs: this is the added work by itself
    print(f"work added between updates / dense step: {statistics.median(maskings) / base:.5f}")
    print(f"update of the masks / dense step: {statistics.median(updates) / base:.3f}")


def seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
