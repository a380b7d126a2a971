"""Multiplications of a model's forward passes, and the family that follows from them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from anon_tune.architecture import Computation, fingerprint
from anon_tune.workers.problems.models import build_model
from anon_tune.workers.trial.operations import counted


class Mnist(nn.Module):
    """The network of pytorch/examples/mnist: most weights are of a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3), nn.Conv2d(32, 64, 3)
        self.fc1, self.fc2 = nn.Linear(9216, 128), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2)
        return F.log_softmax(self.fc2(F.relu(self.fc1(torch.flatten(x, 1)))), dim=1)


class WrittenOut(nn.Module):
    """Attention by hand, without a layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.three, self.last = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.three(x).chunk(3, dim=-1)
        return self.last((query @ key.transpose(1, 2)).softmax(dim=-1) @ value)


class Words(nn.Module):
    """A recurrent layer between a large vocabulary and itself, as pytorch/examples/word_language_model."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.encoder, self.layer, self.decoder = nn.Embedding(4000, 8), layer, nn.Linear(8, 4000)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.layer(self.encoder(x))[0])


class Cells(nn.Module):
    """A recurrent cell in a loop of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(x.shape[0], 8)
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.head(state)


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(8, 8, bidirectional=True, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.arange(x.shape[0], 0, -1)
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        return self.layer(packed)[0].data


class Spectral(nn.Module):
    """Products of batches that are no attention."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return torch.bmm(x, self.weight)


def built(name: str, shape: tuple[int, ...], classes: int = 10) -> nn.Module:
    return build_model(name, shape, classes, {})


def encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 2, enable_nested_tensor=False)


def words() -> Tensor:
    return torch.randint(50, (2, 12))


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]], str]] = {
    "mnist": (Mnist, lambda: (torch.randn(2, 1, 28, 28),), "cnn"),
    "cnn": (lambda: built("cnn", (1, 8, 8)), lambda: (torch.randn(2, 1, 8, 8),), "cnn"),
    "resnet20": (lambda: built("resnet20", (3, 16, 16)), lambda: (torch.randn(2, 3, 16, 16),), "cnn"),
    "resnet18": (lambda: built("resnet18", (3, 16, 16)), lambda: (torch.randn(2, 3, 16, 16),), "cnn"),
    "unet": (lambda: built("unet", (1, 8, 8)), lambda: (torch.randn(2, 1, 8, 8), torch.rand(2)), "cnn"),
    "vit": (lambda: built("vit_tiny", (1, 8, 8)), lambda: (torch.randn(2, 1, 8, 8),), "transformer"),
    "gpt": (lambda: built("gpt", (12,), 50), lambda: (words(),), "transformer"),
    "encoder": (encoder, lambda: (torch.randn(5, 2, 8),), "transformer"),
    "attention written out": (WrittenOut, lambda: (torch.randn(2, 5, 8),), "transformer"),
    "lstm": (lambda: built("lstm", (12,), 50), lambda: (words(),), "recurrent"),
    "lstm of many words": (lambda: Words(nn.LSTM(8, 8, batch_first=True)), lambda: (words(),), "recurrent"),
    "gru of many words": (lambda: Words(nn.GRU(8, 8, batch_first=True)), lambda: (words(),), "recurrent"),
    "cells": (Cells, lambda: (torch.randn(2, 5, 8),), "recurrent"),
    "packed": (Packed, lambda: (torch.randn(3, 5, 8),), "recurrent"),
    "mlp": (lambda: built("mlp", (1, 8, 8)), lambda: (torch.randn(2, 1, 8, 8),), "mlp"),
    "mlp with layer norms": (
        lambda: nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2)),
        lambda: (torch.randn(2, 4),),
        "mlp",
    ),
    "products of batches": (Spectral, lambda: (torch.randn(5, 2, 8),), "unknown"),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_family_is_where_the_multiplications_are(name: str):
    make, inputs, family = MODELS[name]
    model = make()
    with counted() as found:
        model(*inputs())
    known = fingerprint(model, found)
    assert known["family"] == family
    assert sum(known["multiplications"].values()) == pytest.approx(1, abs=1e-3)
    assert fingerprint(list(model.parameters()), found) == known, "the modules that ran own the parameters"


def operations(found: Computation) -> dict[str, int]:
    total: dict[str, int] = {}
    for counts in found.operations.values():
        for operation, count in counts.items():
            total[operation] = total.get(operation, 0) + count
    return total


def test_multiplications_are_counted_as_by_hand():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(3 * 4 * 4, 5))
    with counted() as found:
        model(torch.randn(7, 2, 6, 6))
    assert operations(found) == {"convolution": 7 * 3 * 16 * 2 * 9, "addmm": 7 * 48 * 5}


@pytest.mark.parametrize(("layer", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_each_weight_of_a_recurrent_layer_counts_for_each_step(layer: type[nn.Module], gates: int):
    with counted() as found:
        layer(6, 4, num_layers=2)(torch.randn(5, 3, 6))
    assert operations(found) == {"recurrent": 5 * 3 * gates * 4 * (6 + 4 + 4 + 4)}


def test_attention_is_counted_as_by_hand():
    class Fused(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(x, x, x)

    with counted() as found:
        Fused()(torch.randn(2, 3, 5, 8))
    assert sum(operations(found).values()) == 2 * (2 * 3 * 5 * 5 * 8)


def test_an_operation_that_torch_cannot_count_runs_all_the_same():
    @torch.library.custom_op("anon_tune_tests::twice", mutates_args=())
    def twice(x: Tensor) -> Tensor:
        return 2 * x

    @register_flop_formula(torch.ops.anon_tune_tests.twice)
    def formula(*_: object, **__: object) -> int:
        raise AssertionError("unknown shapes")

    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = twice(x)
            return result

    with counted() as found:
        assert Twice()(torch.ones(2)).tolist() == [2.0, 2.0]
    assert operations(found) == {"twice": 1}


def test_training_counts_forward_passes_alone_and_changes_nothing():
    def trained(*, count: bool) -> tuple[Tensor, Computation]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        found = Computation()
        for _ in range(3):
            loss = model(torch.randn(16, 4)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if count:
            with counted() as found:
                model(torch.randn(16, 4)).square().mean().backward()
        else:
            model(torch.randn(16, 4)).square().mean().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]), found

    (plain, _), (same, found) = trained(count=False), trained(count=True)
    assert torch.equal(plain, same)
    assert operations(found) == {"addmm": 16 * (4 * 8 + 8 * 2)}


def test_an_error_in_a_forward_pass_leaves_no_hooks_and_no_module_behind():
    class Breaks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("broken")

    good = nn.Linear(4, 2)
    with counted() as found:
        outer = nn.Sequential(Breaks())
        with pytest.raises(ValueError, match="broken"):
            outer(torch.randn(1, 4))
        good(torch.randn(3, 4))
    assert found.operations[good] == {"addmm": 24}
    before = dict(found.operations[good])
    good(torch.randn(3, 4))
    assert found.operations[good] == before


def test_a_frozen_model_that_serves_as_a_loss_does_not_count():
    judge = nn.Sequential(nn.Conv2d(1, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)).requires_grad_(
        False
    )
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 64))
    with counted() as found:
        judge(model(torch.randn(2, 16)).view(2, 1, 8, 8))
    assert fingerprint(model, found)["family"] == "mlp"
    assert fingerprint([{"params": list(model.parameters())}], found)["multiplications"] == {"linear": 1.0}


def test_parameters_alone_are_told_by_their_shapes():
    kernels = nn.Conv2d(3, 8, 3)
    found = fingerprint(list(kernels.parameters()))
    assert (found["family"], found["parameters"], found["layers"]) == ("cnn", 3 * 8 * 9 + 8, {})
    assert fingerprint(nn.Linear(3, 8).named_parameters())["family"] == "unknown"
