"""Train a model with an exported config: `python -m examples.train_with_export best.yaml`."""

import sys
from pathlib import Path

import torch
import yaml
from torch.nn.functional import cross_entropy

from anon_tune import load_optimizer
from anon_tune.workers.problems.tasks import load_problem


def train(path: Path, epochs: int = 5) -> tuple[float, float]:
    """Return the mean training loss of the first and the last epoch."""
    config = yaml.safe_load(path.read_text())
    chosen = config["architecture"]["model"]
    problem = load_problem("image_classification", "digits", chosen["name"], chosen["options"])
    torch.manual_seed(0)
    model = problem.build_model()

    optimizer = load_optimizer(path, model.parameters())  # the one line that changes

    losses = []
    for _ in range(epochs):
        total, batches = 0.0, torch.randperm(len(problem.train)).split(config["training"]["batch_size"])
        for batch in batches:
            loss = cross_entropy(model(problem.train.inputs[batch]), problem.train.targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() / len(batches)
        losses.append(total)
    return losses[0], losses[-1]


if __name__ == "__main__":
    first, last = train(Path(sys.argv[1]))
    print(f"training loss {first:.3f} -> {last:.3f}")
