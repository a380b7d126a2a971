"""Exported configurations as code: each is run, in a training loop of its kind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainingArguments

from anon_tune.export import document, render
from anon_tune.records import JobRecord, JobState, Phase
from anon_tune.spec import load_spec, parse_spec
from anon_tune.workers.trial.schedules import SCHEDULES, schedule_factor
from tests import builders
from tests.answers import HYPERPARAMETERS, stored, winner
from tests.modules import imported
from tests.test_export import OPTIMIZERS

EXAMPLES = Path(__file__).parents[1] / "examples" / "bring_your_own"
EPOCHS = 2
ARMS = ("anon", "adamw", "sgd")

LOOP = {"batch_size": 30, "clip": 0.5, "accumulate": 2, "label_smoothing": 0.1}
"""Settings of our own training loop."""


def exported(
    arm: str = "anon",
    *,
    training: dict[str, Any] | None = None,
    uses_schedule: bool | None = None,
    steps: int | None = None,
) -> dict[str, Any]:
    """A document: of a training function, if it says whether it uses our schedule."""
    length = {"epochs": EPOCHS} if steps is None else {"steps": steps}
    keys: dict[str, Any] = {"training": training or {}, "budget": {"trials": 1, **length}}
    if uses_schedule is None:
        spec = builders.spec(**keys)
    else:
        spec = parse_spec({"name": "x", "task": "train:train", "folder": "/x", **keys})
    record = JobRecord(
        "abc", "a job", JobState.SUCCEEDED, Phase.VERDICT, spec.model_dump(mode="json"), builders.EPOCH,
        result=stored(ARMS, winners={each: winner(each) for each in ARMS}), probe={"uses_schedule": uses_schedule},
    )  # fmt: skip
    return document(record, arm)


def of_factory() -> dict[str, Any]:
    """A document of Lion, an arm of the user."""
    spec = load_spec(OPTIMIZERS / "job.yaml")
    lion = winner("anon", hyperparameters={"lr": 0.001, "beta1": 0.95, "weight_decay": 0.1})
    record = JobRecord(
        "abc", "a job", JobState.SUCCEEDED, Phase.VERDICT, spec.model_dump(mode="json"), builders.EPOCH,
        result=stored((), winners={"lion": lion}),
    )  # fmt: skip
    return document(record, "lion")


def run(text: str, **names: Any) -> dict[str, Any]:
    exec(compile(text, "<snippet>", "exec"), names)
    return names


def check(group: dict[str, Any], hyperparameters: dict[str, Any], *, scheduled: bool = False) -> None:
    for name, value in hyperparameters.items():
        key = "initial_lr" if scheduled and name == "lr" else name
        assert group[key] == (tuple(value) if isinstance(value, list) else value), name


# Plain torch


def sides(text: str) -> tuple[str, str]:
    """The script before and after the changes that a diff shows."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert {line[0] for line in lines} == {" ", "+", "-"}
    return tuple("\n".join(line[1:] for line in lines if line[0] != sign) + "\n" for sign in "+-")  # type: ignore[return-value]


def plain() -> dict[str, Any]:
    """The names that a plain script has before its loop."""
    torch.manual_seed(0)
    inputs = torch.randn(12, 3)
    batches = [(part, part.sum(1, keepdim=True)) for part in inputs.split(4)]
    return {
        "torch": torch,
        "model": nn.Linear(3, 1),
        "loader": batches,
        "loss_of": F.mse_loss,
        "epochs": EPOCHS,
    }


@pytest.mark.parametrize("arm", ARMS)
def test_the_changes_of_a_plain_script_run_before_and_after(arm: str):
    before, after = sides(render(exported(arm), "torch"))
    assert type(run(before, **plain())["optimizer"]) is torch.optim.AdamW
    names = plain()
    start = names["model"].weight.detach().clone()
    optimizer = run(after, **names)["optimizer"]
    check(optimizer.param_groups[0], HYPERPARAMETERS[arm], scheduled=True)
    assert not torch.equal(names["model"].weight, start)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-9), "the cosine has ended"


def test_the_changes_of_a_plain_script_have_clipping_if_the_job_had():
    assert "clip_grad_norm_" not in render(exported(), "torch")
    _, after = sides(render(exported(training=LOOP), "torch"))
    names = plain()
    run(after, **names)
    norm = torch.cat([p.grad.flatten() for p in names["model"].parameters()]).norm()
    assert norm <= LOOP["clip"] + 1e-5


def test_the_changes_of_a_script_with_its_own_schedule_leave_it_alone():
    text = render(exported(uses_schedule=False), "torch")
    assert "the script's own" in text
    _, after = sides(text)
    assert "schedule" not in after
    check(run(after, **plain())["optimizer"].param_groups[0], HYPERPARAMETERS["anon"])


def test_a_script_that_used_our_schedule_steps_it_after_each_epoch():
    names = run(sides(render(exported(uses_schedule=True), "torch"))[1], **plain())
    assert names["schedule"].last_epoch == EPOCHS


def test_a_script_of_a_job_in_steps_steps_our_schedule_with_the_optimizer():
    names = run(sides(render(exported(uses_schedule=True, steps=2000), "torch"))[1], **plain())
    assert names["schedule"].last_epoch == EPOCHS * len(names["loader"]) > EPOCHS


def test_the_changes_of_a_plain_script_for_an_arm_of_the_user():
    with imported("optimizers", OPTIMIZERS):
        names = run(sides(render(of_factory(), "torch"))[1], **plain())
    assert type(names["optimizer"]).__name__ == "Lion"


# The schedule


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_the_schedule_of_a_snippet_is_the_job_s(name: str, warmup: float):
    if (name, warmup) == ("constant", 0.0):
        return
    text = render(exported(training={"schedule": name, "warmup": warmup}), "lightning")
    make = run(text)["make_schedule"]
    for steps in (1, 7, 100):
        optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
        schedule: LambdaLR = make(optimizer, steps)
        factor = schedule.lr_lambdas[0]
        found = [factor(step) for step in range(steps + 2)]
        assert found == pytest.approx(
            [schedule_factor(name, step, steps, warmup) for step in range(steps + 2)]
        )


def test_a_constant_learning_rate_has_no_schedule():
    text = render(exported(training={"schedule": "constant"}), "lightning")
    assert "make_schedule" not in text
    assert "constant, warm-up 0" in text


# Lightning and Hugging Face, with the models of the examples


@contextmanager
def example(name: str) -> Iterator[Any]:
    """The module of an example's plain script."""
    with imported("plain", EXAMPLES / name) as plain:
        yield plain


def fitted(text: str, options: dict[str, Any]) -> Any:
    """The Trainer of Lightning's example after training with a snippet."""
    with example("lightning") as plain:
        names = run(text)
        kept = names.get("trainer_options", {})
        tuned = type("Tuned", (plain.Digits,), {"configure_optimizers": names["configure_optimizers"]})
        trainer = lightning.Trainer(
            **{"max_epochs": EPOCHS, **kept, **options}, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        )  # fmt: skip
        trainer.fit(tuned(EPOCHS, 8), plain.loaders()[0])
        return trainer


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("arm", ARMS)
def test_lightning_trains_with_a_snippet(arm: str):
    trainer = fitted(render(exported(arm, training={"clip": 0.5}), "lightning"), {"limit_train_batches": 3})
    (optimizer,) = trainer.optimizers
    check(optimizer.param_groups[0], HYPERPARAMETERS[arm], scheduled=True)
    assert (trainer.max_epochs, trainer.gradient_clip_val) == (EPOCHS, 0.5)
    assert trainer.global_step == 3 * EPOCHS
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == 3 * EPOCHS
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.filterwarnings("ignore")
def test_lightning_trains_with_a_snippet_of_a_function_that_used_our_schedule():
    trainer = fitted(render(exported(uses_schedule=True), "lightning"), {"limit_train_batches": 3})
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == EPOCHS


@pytest.mark.filterwarnings("ignore")
def test_lightning_trains_with_a_snippet_of_a_function_in_steps():
    trainer = fitted(
        render(exported(uses_schedule=True, steps=2000), "lightning"), {"limit_train_batches": 3}
    )
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == 3 * EPOCHS


@pytest.mark.filterwarnings("ignore")
def test_lightning_trains_with_a_snippet_of_a_function_with_its_own_schedule():
    text = render(exported(uses_schedule=False), "lightning")
    assert "trainer_options" not in text
    assert fitted(text, {"limit_train_batches": 2}).lr_scheduler_configs == []


@pytest.mark.filterwarnings("ignore")
def test_lightning_trains_with_a_snippet_for_an_arm_of_the_user():
    with imported("optimizers", OPTIMIZERS):
        trainer = fitted(render(of_factory(), "lightning"), {"limit_train_batches": 2, "max_epochs": 1})
    assert type(trainer.optimizers[0]).__name__ == "Lion"


def trained(text: str, folder: Path, **arguments: Any) -> Any:
    """Hugging Face's Trainer of the example after training with a snippet."""
    with example("hugging_face") as plain:
        names = run(text)
        usual = {"num_train_epochs": 1, "per_device_train_batch_size": 64}
        given = {**usual, **names.get("training_arguments", {}), **arguments}
        trainer = Trainer(
            plain.make_model(8),
            TrainingArguments(
                folder / "out", **given, report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=True
            ),
            train_dataset=torch.utils.data.Subset(plain.splits()[0], range(120)),
            optimizer_cls_and_kwargs=names["optimizer_cls_and_kwargs"],
        )
        trainer.train()
        return trainer


def optimizer_of(trainer: Any) -> torch.optim.Optimizer:
    """The optimizer within accelerate's wrapper."""
    return getattr(trainer.optimizer, "optimizer", trainer.optimizer)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("arm", ARMS)
def test_hugging_face_trains_with_a_snippet(arm: str, tmp_path: Path):
    trainer = trained(render(exported(arm, training=LOOP), "hugging-face"), tmp_path)
    decayed, bare = optimizer_of(trainer).param_groups
    check(decayed, HYPERPARAMETERS[arm], scheduled=True)
    assert bare["weight_decay"] == 0.0
    args = trainer.args
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps == LOOP["batch_size"]
    assert (args.max_grad_norm, args.label_smoothing_factor, args.num_train_epochs) == (0.5, 0.1, EPOCHS)
    assert trainer.state.global_step == EPOCHS * 120 // LOOP["batch_size"]
    factor, steps = trainer.lr_scheduler.lr_lambdas[0], trainer.state.max_steps
    for step in range(steps + 1):
        assert factor(step) == pytest.approx(schedule_factor("cosine", step, steps), abs=1e-9)


def test_a_warm_up_is_a_share_of_the_trainer_s_steps():
    arguments = run(render(exported(training={"warmup": 0.1}), "hugging-face"))["training_arguments"]
    assert (arguments["lr_scheduler_type"], arguments["warmup_steps"]) == ("cosine", 0.1)


@pytest.mark.filterwarnings("ignore")
def test_a_job_without_clipping_turns_off_the_trainer_s(tmp_path: Path):
    trainer = trained(render(exported(), "hugging-face"), tmp_path, num_train_epochs=1)
    assert trainer.args.max_grad_norm == 0.0


@pytest.mark.filterwarnings("ignore")
def test_hugging_face_trains_with_a_snippet_of_a_function_with_its_own_schedule(tmp_path: Path):
    text = render(exported("adamw", uses_schedule=False), "hugging-face")
    assert "Keep the lr_scheduler_type" in text
    trainer = trained(text, tmp_path)
    assert run(text)["training_arguments"] == {"weight_decay": 0.1}
    assert optimizer_of(trainer).param_groups[0]["weight_decay"] == 0.1


@pytest.mark.filterwarnings("ignore")
def test_a_schedule_that_the_trainer_lacks_comes_as_a_function(tmp_path: Path):
    text = render(exported(training={"schedule": "step"}), "hugging-face")
    names = run(text)
    assert "lr_scheduler_type" not in names["training_arguments"]
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    assert names["make_schedule"](optimizer, 4).lr_lambdas[0](3) == pytest.approx(0.01)
    trained(text, tmp_path, num_train_epochs=1)


@pytest.mark.filterwarnings("ignore")
def test_hugging_face_trains_with_a_snippet_for_an_arm_of_the_user(tmp_path: Path):
    with imported("optimizers", OPTIMIZERS):
        trainer = trained(render(of_factory(), "hugging-face"), tmp_path, num_train_epochs=1)
    (group,) = optimizer_of(trainer).param_groups
    assert (group["beta1"], group["weight_decay"]) == (0.95, 0.1)
