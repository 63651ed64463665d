"""Opacus' private step against PyTorch's plain one; runs in the environment of `requirements.txt` beside this file.

As the product's step: per-sample gradients for the real half alone (hooks on), the generated half plain (hooks off),
noise and Adam included. Arguments: image size, batch, rounds. Prints one JSON line.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import warnings

import opacus
import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import nn
from torch.nn import functional

WIDTHS = (64, 128, 256, 512)


class Discriminator(nn.Module):
    def __init__(self, image_size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, size = 3, image_size
        for index, width in enumerate(WIDTHS):
            layers.append(nn.Conv2d(channels, width, 3, stride=2, padding=1))
            if index:
                layers.append(nn.GroupNorm(8, width))
            layers.append(nn.LeakyReLU(0.2))
            channels, size = width, -(-size // 2)
        layers += [nn.Flatten(), nn.Linear(size * size * channels, 48), nn.LeakyReLU(0.2), nn.Linear(48, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def main(image_size: int, batch: int, rounds: int) -> None:
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    real, fake = (torch.rand(batch, 3, image_size, image_size) * 2 - 1 for _ in range(2))
    plain_model = Discriminator(image_size)
    plain_adam = torch.optim.Adam(plain_model.parameters(), 1e-4, (0.5, 0.9))

    def plain() -> None:
        plain_adam.zero_grad()
        outputs = plain_model(torch.cat([real, fake]))
        loss = functional.softplus(-outputs[:batch]).mean() + functional.softplus(outputs[batch:]).mean()
        loss.backward()
        plain_adam.step()

    module = GradSampleModule(Discriminator(image_size), loss_reduction="sum")
    adam = torch.optim.Adam(module.parameters(), 1e-4, (0.5, 0.9))
    optimiser = DPOptimizer(
        adam, noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=batch, loss_reduction="mean"
    )
    parameters = list(module.parameters())

    def private() -> None:
        optimiser.zero_grad()
        module.disable_hooks()
        generated = torch.autograd.grad(functional.softplus(module(fake)).mean(), parameters)
        module.enable_hooks()
        functional.softplus(-module(real)).sum().backward()
        if not optimiser.pre_step():
            raise RuntimeError("Opacus skipped a step")
        for parameter, gradient in zip(parameters, generated, strict=True):
            parameter.grad += gradient
        optimiser.original_optimizer.step()

    times: dict[str, list[float]] = {"plain": [], "private": []}
    for index in range(rounds + 2):
        for name, step in (("plain", plain), ("private", private)):
            started = time.perf_counter()
            step()
            if index >= 2:
                times[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(
        json.dumps(
            {
                "ratio": medians["private"] / medians["plain"],
                "plain_seconds": medians["plain"],
                "private_seconds": medians["private"],
                "rounds": rounds,
                "versions": {"opacus": opacus.__version__, "torch": torch.__version__},
            }
        )
    )


if __name__ == "__main__":
    main(*(int(value) for value in sys.argv[1:4]))
