"""The script of plain.py, tuned: `anon-tune run job.yaml`. It still runs alone: `python train.py`."""

import argparse

import torch
from data import splits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import anon_tune


@torch.no_grad()
def loss_on(model, data):
    losses = [F.cross_entropy(model(inputs), targets) for inputs, targets in DataLoader(data, batch_size=300)]
    return torch.stack(losses).mean().item()


parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--width", type=int, default=32)
arguments = parser.parse_args()

trial = anon_tune.trial(epochs=arguments.epochs)
train_data, validation_data, test_data = splits()
model = nn.Sequential(nn.Linear(64, arguments.width), nn.ReLU(), nn.Linear(arguments.width, 10))
optimizer = trial.optimizer(model)
for epoch in range(1, trial.epochs + 1):
    for inputs, targets in DataLoader(train_data, batch_size=64, shuffle=True):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    print(epoch, loss_on(model, validation_data))
    trial.report(epoch, loss=loss_on(model, validation_data))
if trial.tests:
    trial.test(loss=loss_on(model, test_data))
print("test", loss_on(model, test_data))
