"""A wrong job file: one clear message, exit code 2, and nothing written."""

from __future__ import annotations

import pytest

from tests.jobs.conftest import SPEC, Home


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "budget: {trials: 12",
            "budget: {trails: 12",
            "budget.trails: unknown key 'trails'; did you mean 'trials'",
        ),
        ("trials: 12", "trials: 0", "budget.trials: "),
        ("trials: 12", "trials: many", "budget.trials: "),
        ("task: image_classification", "task: image_clasification", "did you mean 'image_classification'"),
        ("name: mlp", "name: mpl", "did you mean 'mlp'"),
        ("space: default", "space: defualt", "did you mean 'default'"),
        ("space: default", "space: adamw", "space: "),
        ("width: 16", "widht: 16", "model.widht: "),
        ("sampler: gp", "sampler: bayes", "search.sampler: "),
        ("budget:", "budget: [", "invalid YAML"),
    ],
)
def test_wrong_file(home: Home, old: str, new: str, message: str) -> None:
    assert old in SPEC
    done = home.call("run", home.spec(SPEC.replace(old, new, 1)))
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (home.folder / "ledger.db").exists()


def test_missing_file(home: Home) -> None:
    done = home.call("run", "nowhere.yaml")
    assert done.returncode == 3
    assert "nowhere.yaml" in done.stderr
    assert not (home.folder / "ledger.db").exists()
