"""The script of plain.py, tuned: `anon-tune run job.yaml`."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from workers.data import splits


def train(context, width=32):
    train_data, validation_data, test_data = splits()
    model = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
    optimizer = context.optimizer(model)
    schedule = context.schedule(optimizer)
    done = context.resume(model=model, optimizer=optimizer, schedule=schedule)
    for epoch in range(done + 1, context.epochs + 1):
        for inputs, targets in DataLoader(train_data, batch_size=64, shuffle=True):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
        schedule.step()
        context.report(epoch, loss=loss_on(model, validation_data))
    if context.tests:
        context.test(loss=loss_on(model, test_data))


@torch.no_grad()
def loss_on(model, data):
    losses = [F.cross_entropy(model(inputs), targets) for inputs, targets in DataLoader(data, batch_size=300)]
    return torch.stack(losses).mean().item()
