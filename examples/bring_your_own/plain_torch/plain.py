"""A training script as it may be before it is tuned: `python plain.py`."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from workers.data import splits


def train(epochs=10, width=32):
    train_data, validation_data, test_data = splits()
    model = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for epoch in range(1, epochs + 1):
        for inputs, targets in DataLoader(train_data, batch_size=64, shuffle=True):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
        schedule.step()
        print(epoch, loss_on(model, validation_data))
    print("test", loss_on(model, test_data))


@torch.no_grad()
def loss_on(model, data):
    losses = [F.cross_entropy(model(inputs), targets) for inputs, targets in DataLoader(data, batch_size=300)]
    return torch.stack(losses).mean().item()


if __name__ == "__main__":
    train()
