"""The fingerprint: family and size of a model."""

from __future__ import annotations

import pytest
from torch import nn

from anon_tune.architecture import fingerprint


def transformer() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 2, enable_nested_tensor=False)


class Tied(nn.Module):
    """An embedding whose weights are the head's too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 50, bias=False)
        self.head.weight = self.embedding.weight


@pytest.mark.parametrize(
    ("model", "family"),
    [
        (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), "mlp"),
        (nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 2)), "cnn"),
        (nn.Sequential(nn.Conv1d(1, 32, 3), nn.LayerNorm(4), nn.Linear(4, 2)), "cnn"),
        (nn.LSTM(4, 8), "recurrent"),
        (nn.Sequential(nn.Embedding(3, 4), nn.GRU(4, 8), nn.Linear(8, 3)), "recurrent"),
        (transformer(), "transformer"),
        (Tied(), "transformer"),
        (nn.Identity(), "mlp"),
        (nn.ModuleList([nn.Embedding(5000, 16), nn.LSTM(16, 16), nn.Linear(16, 5000)]), "recurrent"),
    ],
    ids=[
        "mlp",
        "cnn",
        "cnn with layer norm",
        "lstm",
        "gru",
        "transformer",
        "tied",
        "no parameters",
        "lstm of many words",
    ],
)
def test_the_family_is_where_the_weights_are(model: nn.Module, family: str):
    assert fingerprint(model)["family"] == family


def test_every_parameter_is_counted_once():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 5))
    found = fingerprint(model)
    assert found["parameters"] == 20 + 4 + 15
    assert found["layers"] == {"batch_norm": 1, "convolution": 1, "linear": 1}
    assert found["share"] == {
        "batch_norm": pytest.approx(4 / 39, abs=1e-4),
        "convolution": pytest.approx(20 / 39, abs=1e-4),
        "linear": pytest.approx(15 / 39, abs=1e-4),
    }


def test_parameters_outside_the_known_layers_are_other():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position = nn.Parameter(nn.Linear(3, 4).weight.detach())

    found = fingerprint(Own())
    assert (found["share"], found["family"]) == ({"other": 1.0}, "unknown")


@pytest.mark.parametrize("model", [Tied(), transformer()], ids=["tied", "transformer"])
def test_shares_add_up_to_one(model: nn.Module):
    assert sum(fingerprint(model)["share"].values()) == pytest.approx(1, abs=1e-3)


def test_it_is_plain_values():
    import json

    found = fingerprint(transformer())
    assert json.loads(json.dumps(found)) == found
