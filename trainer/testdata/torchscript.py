"""Makes the TorchScript files beside it, with PyTorch 2.11: python torchscript.py"""

import os

import torch
from torch import nn

torch.manual_seed(1)
here = os.path.dirname(os.path.abspath(__file__))


def save(module, name):
    module.save(os.path.join(here, name))


# The engine's mlp of 64, 8, 10, were dropout not off.
mlp = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 10))
save(torch.jit.script(mlp), "mlp.pt")
# Drawing is part of what is traced.
save(torch.jit.trace(mlp.train(), torch.ones(2, 1, 8, 8), check_trace=False), "draws.pt")
save(torch.jit.script(mlp.double()), "double.pt")


class Mixed(nn.Module):
    """A weight that two layers share, one that is frozen, statistics, and a sample that is a vector."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6, bias=False)
        self.norm = nn.BatchNorm1d(6)
        self.second = nn.Linear(6, 6, bias=False)
        self.second.weight = self.first.weight
        self.last = nn.Linear(6, 3)
        self.last.bias.requires_grad_(False)

    def forward(self, x):
        return self.last(torch.tanh(self.second(torch.tanh(self.norm(self.first(x))))))


mixed = Mixed()
mixed(torch.randn(50, 6))
save(torch.jit.script(mixed), "mixed.pt")
for parameter in mixed.parameters():
    parameter.requires_grad_(False)
save(torch.jit.script(mixed), "frozen.pt")
x = torch.arange(12, dtype=torch.float32).view(2, 6) / 12
print(mixed.eval()(x).tolist())
