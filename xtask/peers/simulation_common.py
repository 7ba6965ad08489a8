"""What the programs that `bench simulate` compares with share: the work, and LeNet-5 in PyTorch.

The folder that is given holds `settings.json` (clients, per_round, rounds, batch_size, learning_rate), images and labels
in IDX form, `clients.u32` (`[clients, samples]`: who holds which sample) and `weights.f32` (LeNet-5 at the start, the
parameters one after the other). Version v is made by the clients that follow each other from v * per_round on, each with
one epoch over its samples in random order.
"""

import json
import pathlib

import numpy
import torch
import torch.nn.functional as F

torch.set_num_threads(1)


class Work:
    def __init__(self, folder):
        folder = pathlib.Path(folder)
        for key, value in json.loads((folder / "settings.json").read_text()).items():
            setattr(self, key, value)
        self.train = self.read(folder, "train")
        self.test = self.read(folder, "t10k")
        parts = numpy.fromfile(folder / "clients.u32", dtype="<u4").astype(numpy.int64)
        self.parts = torch.from_numpy(parts).view(self.clients, -1)
        self.weights = torch.from_numpy(numpy.fromfile(folder / "weights.f32", dtype="<f4"))

    @staticmethod
    def read(folder, which):
        images = numpy.fromfile(folder / f"{which}-images-idx3-ubyte", dtype=numpy.uint8)[16:]
        labels = numpy.fromfile(folder / f"{which}-labels-idx1-ubyte", dtype=numpy.uint8)[8:]
        x = torch.from_numpy(images.astype(numpy.float32) / 255).view(-1, 1, 28, 28)
        return x, torch.from_numpy(labels.astype(numpy.int64))

    def selected(self, version):
        return [(version * self.per_round + i) % self.clients for i in range(self.per_round)]

    def local_data(self, client):
        """A client's samples, copied together once, as a data loader would keep them."""
        index = self.parts[client]
        return self.train[0][index], self.train[1][index]


class LeNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = torch.nn.Conv2d(6, 16, 5)
        self.fc1 = torch.nn.Linear(400, 120)
        self.fc2 = torch.nn.Linear(120, 84)
        self.fc3 = torch.nn.Linear(84, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc3(F.relu(self.fc2(x)))


def model_from(flat):
    model = LeNet()
    torch.nn.utils.vector_to_parameters(flat, model.parameters())
    return model


def train(model, data, work):
    """One epoch."""
    x, y = data
    optimizer = torch.optim.SGD(model.parameters(), lr=work.learning_rate)
    for batch in torch.randperm(len(y)).split(work.batch_size):
        optimizer.zero_grad()
        F.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()


def accuracy(flat, work):
    with torch.no_grad():
        found = model_from(flat)(work.test[0]).argmax(1)
    return (found == work.test[1]).float().mean().item()
