"""Hugging Face's Trainer as its users write it: evaluations after the training, by steps, of several data sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from anon_tune.records import Phase
from anon_tune.workers.trial.checkpoints import checkpoint_name
from anon_tune.workers.trial.messages import Failed, ProbeResult
from tests.integrations.conftest import UserCode, stand_in
from tests.trials import TRIAL, failed, final, learned, measured, steps

pytestmark = [
    pytest.mark.slow,  # tests/integrations/test_frameworks.py is not
    pytest.mark.filterwarnings("ignore"),  # of transformers about itself
]

CODE = """
import torch
from torch import nn
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments

from anon_tune.integrations.hugging_face import ReportCallback


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, x, labels=None):
        output = self.layers(x)
        return {"loss": nn.functional.mse_loss(output, labels), "logits": output}


def data(seed, size=64, factor=1.0):
    x = torch.randn(size, 6, generator=torch.Generator().manual_seed(seed))
    return [{"x": row, "labels": factor * row.sum(0, keepdim=True)} for row in x]


def train(context, before=False, after=(), stop=None, sets=None, schedule="ours", own_optimizer=False, **arguments):
    report = ReportCallback(context)
    callbacks = [report]
    options = {"per_device_train_batch_size": 16, **report.arguments, **arguments}  # 4 steps an epoch
    if stop is not None:
        callbacks.append(EarlyStoppingCallback(1, stop))
        options |= {"metric_for_best_model": "loss", "greater_is_better": False}
    model = Line()
    keys = {}
    if own_optimizer:
        class OwnTrainer(Trainer):
            def create_optimizer(self, *_, **__):
                self.optimizer = context.optimizer(self.model)
                return self.optimizer
    else:
        OwnTrainer = Trainer
        optimizer = context.optimizer(model)
        ours = context.schedule(optimizer, steps=16) if schedule == "ours" else None
        keys["optimizers"] = (optimizer, ours)
    trainer = OwnTrainer(
        model,
        TrainingArguments(**options),
        train_dataset=data(1),
        eval_dataset=data(2) if sets is None else {name: data(seed) for seed, name in enumerate(sets, 2)},
        callbacks=callbacks,
        **keys,
    )
    if before:
        trainer.evaluate()
        trainer.evaluate(data(3), metric_key_prefix="test")
    trainer.train(resume_from_checkpoint=report.checkpoint)
    for each in after:
        if each == "evaluate":
            trainer.evaluate()
        elif each == "predict":
            trainer.predict(data(3, factor=10.0))
        else:
            trainer.evaluate(data(3, factor=10.0), metric_key_prefix=each)
"""


@pytest.fixture
def user(user: UserCode) -> UserCode:
    user.write(CODE)
    return user


def test_a_script_runs_alone_for_any_length(user: UserCode):
    code: dict[str, Any] = {}
    exec(CODE, code)
    code["train"](stand_in(epochs=1), after=["evaluate", "test"], num_train_epochs=2)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"after": ["evaluate"]}, [1, 2, 3, 4]),
        ({"before": True, "after": ["evaluate", "test", "test", "evaluate"]}, [1, 2, 3, 4]),
        ({"eval_strategy": "no", "after": ["evaluate"]}, [4]),
        ({"eval_strategy": "steps", "eval_steps": 2}, [1, 2, 3, 4]),
        ({"eval_strategy": "steps", "eval_steps": 3}, [1, 2, 3, 4]),
        ({"eval_strategy": "steps", "eval_steps": 3, "after": ["evaluate"]}, [1, 2, 3, 4]),
        ({"eval_strategy": "steps", "eval_steps": 5, "max_steps": 20}, [1, 2, 3, 4]),
        ({"max_steps": 10, "after": ["evaluate"]}, [1, 3, 4]),
        ({"gradient_accumulation_steps": 2}, [1, 2, 3, 4]),
        ({"gradient_accumulation_steps": 3, "after": ["evaluate"]}, [1, 2, 3, 4]),
        ({"schedule": "theirs"}, [1, 2, 3, 4]),
        ({"own_optimizer": True}, [1, 2, 3, 4]),
    ],
    ids=str,
)
def test_a_report_is_the_share_of_the_training(user: UserCode, options: dict[str, Any], expected: list[int]):
    assert isinstance(user.probe(**options), ProbeResult)
    found = user.trial(**options)
    assert steps(found) == [*expected, None], found[-1]
    values = [measured(each).value for each in found[:-1]]
    assert len(set(values)) == len(values)
    assert final(found[-1]) == values[-1]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"eval_steps": 3, "after": ["evaluate"]}, [3, 6, 9, 10]),
        ({"eval_strategy": "epoch"}, [4, 8, 10]),
        ({"eval_steps": 2, "gradient_accumulation_steps": 2}, [2, 4, 6, 8, 10]),
    ],
    ids=str,
)
def test_a_budget_in_steps_is_the_trainers(user: UserCode, options: dict[str, Any], expected: list[int]):
    user.budget = "{trials: 1, steps: 10}"
    assert isinstance(user.probe(**options), ProbeResult)
    found = user.trial(**options)
    assert steps(found) == [*expected, None], found[-1]
    counted = [measured(each).metrics["optimizer_steps"] for each in found[:-1]]
    assert np.cumsum(counted).tolist() == expected


def test_a_training_in_steps_continues_with_the_same_results(user: UserCode):
    user.budget = "{trials: 1, steps: 10}"
    first = user.trial(eval_steps=3, after=["evaluate"])
    again = user.trial(2, checkpoint_name(TRIAL, 1, 6), eval_steps=3, after=["evaluate"])
    assert again[0].resumed == 6
    assert [learned(each) for each in again] == [learned(each) for each in first[2:]]


def test_a_trainer_without_the_steps_of_the_budget_is_refused(user: UserCode):
    user.budget = "{trials: 1, steps: 10}"
    for options, has in (({"max_steps": 9}, 9), ({"max_steps": -1, "num_train_epochs": 3}, 12)):
        found = user.probe(**options)
        assert isinstance(found, Failed)
        assert f"trains for {has} steps, but budget.steps of the job is 10. Pass max_steps=" in found.reason


@pytest.mark.parametrize("metric", ["loss", "eval_loss", "valid_loss"])
@pytest.mark.parametrize(
    "after", [["test"], ["predict"], ["evaluate", "test", "evaluate", "predict"]], ids=str
)
def test_the_first_test_after_the_training_counts(user: UserCode, metric: str, after: list[str]):
    found = user.trial(phase=Phase.VERDICT, metric=metric, before=True, after=after)
    assert steps(found) == [1, 2, 3, 4, None], found[-1]
    last = measured(found[3])
    assert final(found[-1]) == last.metrics[f"test_{metric}"] > 4 * last.value


@pytest.mark.parametrize("sets", [["easy", "hard"], ["hard", "easy"]], ids=str)
def test_of_several_evaluation_data_sets_the_objective_names_one(user: UserCode, sets: list[str]):
    found = user.trial(metric="hard_loss", sets=sets, after=["evaluate"])
    assert steps(found) == [1, 2, 3, 4, None], found[-1]


def test_a_training_continues_with_the_same_results_between_its_epochs(user: UserCode):
    options = {"eval_strategy": "steps", "eval_steps": 5, "max_steps": 20}
    first = user.trial(phase=Phase.VERDICT, **options)
    again = user.trial(2, checkpoint_name(TRIAL, 1, 3), phase=Phase.VERDICT, **options)
    assert again[0].resumed == 3
    assert [learned(each) for each in again] == [learned(each) for each in first[3:]]


def test_a_training_that_stops_early_ends_with_its_last_report(user: UserCode):
    """No epoch is better by 1000, so the patience of one ends after the second."""
    options = {
        "stop": 1000.0,
        "save_strategy": "epoch",
        "load_best_model_at_end": True,
        "save_total_limit": 1,
    }
    found = user.trial(phase=Phase.VERDICT, after=["evaluate", "test"], **options)
    assert steps(found) == [1, 2, 4, None], found[-1]
    assert final(found[-1]) == measured(found[2]).metrics["test_loss"]
    assert measured(found[1]).checkpoint is None, "the Trainer would train on from it"
    again = user.trial(
        2, checkpoint_name(TRIAL, 1, 1), phase=Phase.VERDICT, after=["evaluate", "test"], **options
    )
    assert [learned(each) for each in again] == [learned(each) for each in found[1:]]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"num_train_epochs": 3},
            "num_train_epochs is 3, but budget.epochs of the job is 4. Pass num_train_epochs=",
        ),
        ({"eval_strategy": "no"}, "ended without a report"),
        ({"metric": "accuracy"}, "The evaluation has no objective.metric 'accuracy'; it has loss."),
    ],
    ids=str,
)
def test_a_trainer_whose_trials_do_not_compare_is_refused_in_the_probe(
    user: UserCode, options: dict[str, Any], reason: str
):
    found = user.probe(**options)
    assert isinstance(found, Failed)
    assert reason in found.reason
    assert reason in failed(user.trial(**options)[-1]).reason
