"""Anon over tensors that are split among ranks."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

RANK = """
import sys
import torch
import torch.distributed as dist
from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh
from anon_tune.optim import Anon, monitor

torch.set_num_threads(1)
rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
for placement, rows in ((Shard(0), 4), (Shard(0), 5), (Replicate(), 3)):
    split = lambda full: distribute_tensor(full, mesh, [placement])
    for path in ({}, {"foreach": True}, {"fused": True}, {"capturable": True}):
        for gamma, floor, zeros in ((1.0, 0.0, 0), (1.0, 0.1, 0), (0.0, 0.0, 0), (1.5, 0.1, 1), (-0.5, 0.0, 1)):
            generator = torch.Generator().manual_seed(0)
            whole = torch.randn(rows, 3, generator=generator)
            parts = torch.nn.Parameter(split(whole))
            optimizers = [Anon([p], lr=0.1, gamma=gamma, floor=floor, **path) for p in (whole, parts)]
            for step in range(10 if zeros else 5):
                grad = torch.randn(rows, 3, generator=generator)
                # Nothing in the first two steps, and rows of one rank, then a coordinate of the other, later still.
                if zeros:
                    grad *= step >= 2
                    grad[:2] *= step >= 5
                    grad[-1, 1] *= step not in (2, 3, 4, 7)
                whole.grad, parts.grad = grad, split(grad)
                for optimizer in optimizers:
                    optimizer.step()
            case = (placement, rows, path, gamma, floor, zeros)
            torch.testing.assert_close(parts.detach().full_tensor(), whole, msg=lambda m: f"{case}: {m}")
            one, other = map(monitor, optimizers)
            assert one.keys() == other.keys()
            for name in one:
                assert abs(one[name] - other[name]) <= 1e-5 * abs(one[name]), (case, name, one, other)
dist.destroy_process_group()
print("equal")
"""


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_two_ranks_step_as_one(tmp_path):
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        ends = [rank.communicate(timeout=180) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    for out, err in ends:
        assert out.strip() == "equal", err
