"""What becomes of errors in a trial."""

from __future__ import annotations

import pytest
import torch

from anon_tune.errors import InputError
from anon_tune.records import TrialState
from anon_tune.workers.trainable import _failure


def test_out_of_memory_has_one_reason_that_says_what_to_do(capsys: pytest.CaptureFixture[str]):
    errors = [torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {n} MiB") for n in range(2)]
    first, second = map(_failure, errors)
    assert first["outcome"] is TrialState.FAILED
    assert first["reason"] == second["reason"], "three for one reason pause the job"
    assert "training.batch_size" in first["reason"]
    assert "Tried to allocate 1 MiB" in second["traceback"]
    assert second["traceback"] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "reason"), [(ValueError("no"), "ValueError: no"), (InputError("Do this."), "Do this.")]
)
def test_other_errors_are_their_own_reason(error: Exception, reason: str):
    assert _failure(error)["reason"] == reason
