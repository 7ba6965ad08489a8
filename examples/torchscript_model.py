"""Makes a TorchScript file of a model of one's own, and prints what a simulation file says of it.

    pip install torch numpy
    python examples/torchscript_model.py model.pt
    swarmloom simulate examples/torchscript.toml

Any module will do whose forward takes one tensor of f32 - [samples, channels, height, width], or [samples, values] where
samples are vectors - and returns logits, [samples, classes]. What requires a gradient is trained, all else stays as it is.
Training is in eval mode: dropout is off, and batch normalisation keeps the statistics of the file, which is why this model
normalises by groups.
"""

import sys

import torch
from torch import nn


class Digits(nn.Module):
    """Images of 8 by 8 in grey, ten classes: 3,194 parameters."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(2, 16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.GroupNorm(2, 16), nn.ReLU(),
        )
        self.classes = nn.Linear(64, 10)

    def forward(self, x):
        # Not x.view: it wants memory in order.
        return self.classes(self.features(x).flatten(1))


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else "model.pt"
    torch.manual_seed(0)
    module = Digits()
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    # Scripting keeps branches and loops; torch.jit.trace(module.eval(), example) records one way through them.
    torch.jit.script(module).save(path)
    print(f"# {trained} parameters that are trained\n[model]\nkind = \"torchscript\"\npath = \"{path}\"")


if __name__ == "__main__":
    main()
