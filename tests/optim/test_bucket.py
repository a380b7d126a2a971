"""Which tensors a kernel may walk through: it trusts one size and one dtype."""

from __future__ import annotations

import pytest
import torch

from anon_tune.optim import Anon, foreach
from anon_tune.optim.bucket import Bucket
from anon_tune.optim.rule import Step

from .test_reference import PATHS

NAMES = ("p", "g", "m", "s", "v")


def row(**others: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tuple(others.get(name, torch.ones(3, 4)) for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "other",
    [
        torch.ones(4, 3),
        torch.ones(12),
        torch.ones(1),
        torch.ones(100, 100),
        torch.ones(3, 4, dtype=torch.float64),
        torch.ones(3, 4, device="meta"),
    ],
    ids=lambda t: f"{tuple(t.shape)}-{t.dtype}-{t.device}",
)
def test_one_tensor_unlike_the_others_keeps_its_row_from_the_kernel(name, other):
    fast, rest = Bucket.of([row(), row(**{name: other}), row()]).split_by_order()
    assert (len(fast.params), len(rest.params)) == (2, 1)
    assert any(other is t for tensors in (*rest.rows(),) for t in tensors)


def test_rows_of_one_order_stay_whole():
    nhwc = torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last)
    bucket = Bucket.of([row(), row(g=torch.ones(4, 3).t())])
    assert bucket.split_by_order()[0] is bucket
    mixed = Bucket.of([row(), (nhwc, torch.ones(2, 3, 4, 4), *(nhwc.clone() for _ in range(3)))])
    assert mixed.split_by_order()[0] is mixed


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("gamma", [0.0, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_parameter_that_grew_is_an_error(path, gamma, steps):
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = Anon([p], gamma=gamma, **PATHS[path])
    for _ in range(steps):
        p.grad = torch.ones(3)
        optimizer.step()
    p.grad = None
    p.data = torch.ones(100_000)
    p.grad = torch.ones(100_000)
    with pytest.raises(RuntimeError, match="size"):
        optimizer.step()


@pytest.mark.parametrize("path", PATHS)
def test_state_of_another_dtype_is_read_as_what_it_is(path):
    def moved(dtype: torch.dtype) -> torch.Tensor:
        p = torch.linspace(-1, 1, 64)
        optimizer = Anon([p], lr=0.1, delay=[1], **PATHS[path])
        for step in range(4):
            p.grad = torch.linspace(1, 2, 64)
            optimizer.step()
            if step == 1:
                optimizer.state[p]["multiplier"] = optimizer.state[p]["multiplier"].to(dtype)
        return p

    torch.testing.assert_close(moved(torch.float64), moved(torch.float32))


@pytest.mark.parametrize(("device", "entries"), [("cpu", 2**18), ("meta", 2**24)])
def test_half_precision_is_widened_piece_by_piece(monkeypatch, device, entries):
    """A copy of a whole model in float32 would need more memory than its half-precision parameters."""
    pieces = []
    monkeypatch.setattr(
        foreach, "_by_operations", lambda _, part: pieces.append(sum(p.numel() for p in part.params))
    )
    # Expanded, so that the test itself needs no memory.
    params = [torch.ones((), dtype=torch.bfloat16, device=device).expand(entries // 4) for _ in range(10)]
    bucket = Bucket.of([(p, p, p, p, p) for p in params])
    foreach.foreach(Step.of(Anon([torch.ones(1)]).param_groups[0], 3), bucket)
    assert pieces == [entries, entries, entries // 2]
