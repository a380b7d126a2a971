"""Data of the user: held or made when it is needed it is trained on in the same way, and what is wrong is named."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anon_tune.errors import InputError, SpecError
from anon_tune.spec import load_spec
from anon_tune.workers.problems.data.loaded import LoadedSplit, seeded
from anon_tune.workers.problems.tasks import Problem, load_problem
from anon_tune.workers.trial.attempt import run_probe
from anon_tune.workers.trial.checkpoints import intact, save
from anon_tune.workers.trial.messages import Failed, ProbeResult
from anon_tune.workers.trial.training import Training

MODULE = """
import random

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset, random_split

INPUTS = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
TARGETS = torch.arange(40) % 3
CUTS = [slice(0, 24), slice(24, 32), slice(32, 40)]


class Lazy(Dataset):
    def __init__(self, inputs, targets, noise=0.0):
        self.pairs = inputs, targets
        self.noise = noise

    def __len__(self):
        return len(self.pairs[0])

    def __getitem__(self, index):
        inputs, target = (part[index] for part in self.pairs)
        if self.noise:
            inputs = inputs + self.noise * (torch.rand(()) + random.random() + float(np.random.rand()))
        return inputs, target


def make(kind=TensorDataset, inputs=INPUTS, targets=TARGETS, **keys):
    return tuple(kind(inputs[cut], targets[cut], **keys) for cut in CUTS)


def held():
    return make()


def lazy(noise=0.0):
    return make(Lazy, noise=noise)


def numbered(classes=3):
    return make(Lazy)


def named():
    parts = make(Lazy, targets=TARGETS * 2)
    parts[0].classes = ["a", "b", "c", "d", "e"]
    return parts


def listed():
    parts = make(Lazy)
    parts[0].targets = [0, 1, 5]
    return [Subset(parts[0], range(5)), *parts[1:]]


def cut_by_chance():
    return random_split(TensorDataset(INPUTS, TARGETS), [24, 8, 8])


def pixels():
    return make(Lazy, inputs=((INPUTS + 1) * 127).to(torch.uint8))


def arrays():
    return make(Lazy, inputs=INPUTS.double().numpy(), targets=TARGETS.numpy())


def rows(kind=Lazy):
    return make(kind, inputs=INPUTS.flatten(1).double(), targets=INPUTS.sum((1, 2, 3)).double())


def texts(kind=Lazy):
    tokens = torch.arange(40 * 9).view(40, 9) % 7
    return make(kind, inputs=tokens[:, :-1], targets=tokens[:, 1:])


def images_with_captions():
    return make(Lazy, targets=torch.zeros(40, 3))


def not_three():
    return TensorDataset(INPUTS, TARGETS)


def two():
    return held()[:2]


def lists():
    return [(INPUTS[0], 0)], [(INPUTS[0], 0)], [(INPUTS[0], 0)]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(())


def streams():
    return Stream(), Stream(), Stream()


def empty():
    return make()[0], make()[1], TensorDataset(INPUTS[:0], TARGETS[:0])


def without_targets():
    return [TensorDataset(part.tensors[0]) for part in make()]


def without_pairs():
    return make(Single)


class Single(Lazy):
    def __getitem__(self, index):
        return self.pairs[0][index]


class Worded(Lazy):
    def __getitem__(self, index):
        return self.pairs[0][index], "cat"


def words():
    return make(Worded)


class Ragged(Lazy):
    def __getitem__(self, index):
        return torch.zeros(1, 4, 4 + index % 2), 0


def ragged():
    return make(Ragged)


class Mixed(Lazy):
    def __getitem__(self, index):
        return self.pairs[0][index], 1 if index % 2 else torch.tensor(1)


def mixed():
    return make(Mixed)


class Shades(Lazy):
    def __getitem__(self, index):
        inputs, target = super().__getitem__(index)
        return inputs.float() if index == 5 else inputs, target


def shades():
    return make(Shades, inputs=((INPUTS + 1) * 127).to(torch.uint8))


def bytes_and_numbers():
    return pixels()[0], *make(Lazy)[1:]


def unsigned():
    return make(Lazy, targets=TARGETS.numpy().astype(np.uint16))


def with_gradients(kind=TensorDataset):
    return make(kind, inputs=INPUTS.clone().requires_grad_())


def lazily_with_gradients():
    return with_gradients(Lazy)


class Nested(Lazy):
    def __getitem__(self, index):
        return [[1.0], [1.0, 2.0]], 0


def nested():
    return make(Nested)


def other_sizes():
    return make()[0], TensorDataset(INPUTS[:, :, 1:], TARGETS), make()[2]


def flat():
    return make(inputs=INPUTS.flatten(1))


def channels_last():
    return make(inputs=torch.rand(40, 5, 4, 3))


def whole():
    return make(inputs=(INPUTS * 100).long())


def soft():
    return make(targets=torch.rand(40))


def negative():
    return make(targets=TARGETS - 1)


def beyond():
    return make()[0], TensorDataset(INPUTS, TARGETS + 4), make()[2]


def lazily_beyond():
    return make(Lazy)[0], Lazy(INPUTS, torch.cat([TARGETS, torch.tensor([9])])[1:]), make(Lazy)[2]


class Broken(Lazy):
    def __getitem__(self, index):
        raise OSError("no such picture")


def broken():
    return make(Broken)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A user's folder with a module of data."""
    (tmp_path / "mydata.py").write_text(MODULE)
    before = list(sys.path)
    sys.modules.pop("mydata", None)
    yield tmp_path
    sys.path[:] = before
    sys.modules.pop("mydata", None)


def problem(
    folder: Path,
    function: str,
    task: str = "image_classification",
    model: str = "mlp",
    num_workers: int = 0,
    **options: Any,
) -> Problem:
    sizes = {"width": 8} if model in {"mlp", "unet", "gpt"} else {}
    return load_problem(task, f"mydata:{function}", model, sizes, options, str(folder), num_workers)


def trained(made: Problem, epochs: int = 2, seed: int = 0) -> list[dict[str, float]]:
    training = Training(made, "adamw", {"lr": 0.01}, seed=seed, epochs=epochs, batch_size=7, accumulate=2)
    return [*(training.run_epoch() for _ in range(epochs)), training.test()]


def test_tensors_are_held_and_other_items_made_with_the_same_results(folder: Path):
    held, made = problem(folder, "held"), problem(folder, "lazy")
    assert not isinstance(held.train, LoadedSplit)
    assert isinstance(made.train, LoadedSplit)
    assert trained(held) == trained(made)
    assert trained(problem(folder, "arrays")) == trained(held)


@pytest.mark.parametrize(("function", "num_workers"), [("with_gradients", 0), ("lazily_with_gradients", 1)])
def test_inputs_that_ask_for_a_gradient_get_none(folder: Path, function: str, num_workers: int):
    assert trained(problem(folder, function, num_workers=num_workers)) == trained(problem(folder, "held"))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_items_of_two_dtypes_are_refused_whoever_makes_them(folder: Path, num_workers: int):
    with pytest.raises(
        InputError, match=r"mydata:shades, train: of the inputs .* is torch.uint8 .* all items need one dtype"
    ):
        trained(problem(folder, "shades", num_workers=num_workers))


def test_augmentation_depends_on_the_seed_and_on_nothing_else(folder: Path):
    """Not on who makes the examples, and not on what else the process has drawn."""
    alone, beside = (problem(folder, "lazy", num_workers=n, noise=0.5) for n in (0, 2))
    expected = trained(alone)
    torch.rand(3), np.random.rand(3), random.random()
    assert trained(beside) == expected
    assert trained(alone, seed=1) != expected
    assert not multiprocessing.active_children()


def test_each_epoch_and_each_batch_is_augmented_anew(folder: Path):
    train = problem(folder, "lazy", noise=0.5).train
    order = torch.tensor([3, 3, 3, 3])
    batches = [list(train.batches(2, order, (0, epoch))) for epoch in (0, 0, 1)]
    assert all(torch.equal(*(b.inputs for b in pair)) for pair in zip(*batches[:2], strict=True))
    seen = torch.cat([b.inputs for b in (*batches[0], *batches[2])])
    assert len({tuple(image.flatten().tolist()) for image in seen}) == 8


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_training_on_augmented_data_is_resumed_with_the_same_bits(
    folder: Path, tmp_path: Path, num_workers: int
):
    made = problem(folder, "lazy", num_workers=num_workers, noise=0.5)

    def fresh() -> Training:
        return Training(made, "anon", {"lr": 0.01, "gamma": 1.0, "floor": 0.03}, seed=5, epochs=3)

    training = fresh()
    training.run_epoch()
    save(tmp_path, "t/1/1.pt", training.state_dict())
    ((_, state),) = intact(tmp_path, ["t/1/1.pt"], 2, [])
    expected = training.run_epoch(), training.run_epoch(), training.test()
    resumed = fresh()
    resumed.load_state_dict(state)
    torch.rand(3)
    assert (resumed.run_epoch(), resumed.run_epoch(), resumed.test()) == expected


def test_seeding_leaves_the_random_states_as_they_were():
    def states() -> tuple[Any, ...]:
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()

    before = states()
    with contextlib.suppress(OSError), seeded((1, 2)):
        torch.rand(3), np.random.rand(3), random.random()
        raise OSError
    assert states() == before


def test_processes_of_an_epoch_that_breaks_off_end(folder: Path):
    batches = problem(folder, "lazy", num_workers=2).train.batches(2)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    del batches
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("function", "options", "classes"),
    [
        ("held", {}, 3),  # by what it holds
        ("lazy", {}, 3),  # by reading it
        ("lazy", {"classes": 7}, 7),
        ("numbered", {"classes": 4}, 4),  # which takes the option itself
        ("named", {}, 5),
        ("listed", {}, 6),
        ("cut_by_chance", {}, 3),
    ],
)
def test_how_many_classes_there_are(folder: Path, function: str, options: dict[str, int], classes: int):
    made = problem(folder, function, **options)
    assert made.measure(made.build_model(), made.validation).keys() == {"loss", "accuracy"}
    assert made.build_model()(torch.zeros(2, 1, 4, 4)).shape == (2, classes)


def test_what_a_function_cuts_by_chance_is_cut_in_the_same_way_each_time(folder: Path, tmp_path: Path):
    once = problem(folder, "cut_by_chance")
    torch.rand(3)
    (tmp_path / "other").mkdir()
    again = problem(
        tmp_path / "other", "cut_by_chance"
    )  # another process would read it anew, as another folder does
    assert once.train is not again.train
    assert torch.equal(once.train.inputs, again.train.inputs)
    assert torch.equal(once.test.inputs, again.test.inputs)
    assert not torch.equal(once.train.targets, torch.arange(24) % 3)


def test_bytes_become_numbers_from_minus_1_to_1(folder: Path):
    made = problem(folder, "pixels", model="cnn")
    seen = []
    model = made.build_model()
    model.register_forward_pre_hook(lambda _, inputs: seen.append(*inputs))
    (batch,) = made.train.batches(24)
    assert batch.inputs.dtype == torch.uint8
    made.loss(model, batch, 0.0)
    assert torch.allclose(seen[0], batch.inputs / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize(
    ("task", "function", "model"),
    [
        ("regression", "rows", "mlp"),
        ("language_model", "texts", "gpt"),
        ("diffusion", "images_with_captions", "unet"),
        ("diffusion", "pixels", "unet"),
    ],
)
def test_each_task_trains_on_it(folder: Path, task: str, function: str, model: str):
    made = problem(folder, function, task, model)
    first, *_, last = trained(made, epochs=4)
    assert last["test_loss"] < first["val_loss"] * 1.2
    assert made.measure(made.build_model(), made.test)["loss"] > 0
    (batch,) = made.train.batches(24)
    if function != "pixels":
        from mydata import INPUTS

        assert task == "language_model" or torch.equal(batch.inputs.flatten(), INPUTS[:24].flatten())


@pytest.mark.parametrize(
    ("function", "parts"),
    [
        ("nowhere", ["mydata.py: unknown function 'nowhere'"]),
        ("not_three", ["returned a TensorDataset; return three Datasets", "random_split"]),
        ("two", ["returned a tuple of 2; return three Datasets"]),
        ("lists", ["mydata:lists, train: a list, not a map-style torch.utils.data.Dataset"]),
        ("streams", ["mydata:streams, train: a Stream, not a map-style"]),
        ("empty", ["mydata:empty, test: the Dataset is empty"]),
        ("without_targets", ["train: a TensorDataset of 1 tensors; it needs two, inputs and targets"]),
        ("without_pairs", ["train: item 0 is a Tensor; return pairs (input, target)"]),
        ("words", ["train: the target of item 0 is a str; make it a tensor in __getitem__"]),
        ("ragged", ["train: the input of item 0 is (1, 4, 4), and that of item 1 is (1, 4, 5)"]),
        ("mixed", ["train: the targets cannot form a batch: ", "expected Tensor"]),
        ("nested", ["train: the input of item 0 is a list; make it a tensor"]),
        ("other_sizes", ["the validation Dataset are (1, 3, 4) of torch.float32", "one (1, 4, 4) of"]),
        (
            "bytes_and_numbers",
            ["validation Dataset are (1, 4, 4) of torch.float32", "(1, 4, 4) of torch.uint8"],
        ),
        ("unsigned", ["train: a target is torch.uint16; classes are whole numbers from 0"]),
        ("flat", ["train: an input is (16,), and images are (channels, height, width)"]),
        ("channels_last", ["an input is (5, 4, 3), but channels come first"]),
        ("whole", ["inputs are torch.int64; images are bytes (torch.uint8) or floating-point"]),
        ("soft", ["a target is torch.float32; classes are whole numbers from 0"]),
        ("negative", ["there is the target -1, and classes go from 0"]),
        ("beyond", ["validation: there is the target 6, and classes go from 0 to 2", "data: {classes: N}"]),
    ],
)
def test_what_is_wrong_is_said_when_it_is_read(folder: Path, function: str, parts: list[str]):
    with pytest.raises(InputError) as raised:
        problem(folder, function)
    assert all(part in str(raised.value) for part in parts), raised.value


@pytest.mark.parametrize(
    ("task", "function", "part"),
    [
        ("regression", "texts", r"inputs are torch\.int64; return floating-point numbers"),
        ("regression", "images_with_captions", r"a target is \(3,\), and regression needs one number"),
        ("language_model", "held", r"an input is \(1, 4, 4\) and its target \(\); give \(length,\) tokens"),
        ("language_model", "numbered", "an input is"),
    ],
)
def test_what_does_not_fit_the_task_is_said(folder: Path, task: str, function: str, part: str):
    model = {"regression": "mlp", "language_model": "gpt"}[task]
    with pytest.raises(InputError, match=part):
        problem(folder, function, task, model)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_item_that_will_not_do_is_named_in_the_same_words_by_another_process(
    folder: Path, num_workers: int
):
    made = problem(folder, "lazily_beyond", num_workers=num_workers)
    with pytest.raises(
        InputError, match=r"^mydata:lazily_beyond, validation: there is the target 9, .*items\.$"
    ):
        made.measure(made.build_model(), made.validation)


def test_a_function_to_minimize_is_no_data_of_the_user(folder: Path):
    with pytest.raises(InputError, match="unknown data set of function 'mydata:lazy'"):
        problem(folder, "lazy", "function", "point")
    (folder / "job.yaml").write_text(JOB)
    with pytest.raises(SpecError, match="data: unknown data set of function 'mydata:DATA'"):
        load_spec(folder / "job.yaml", ["task=function", "model=point"])


def test_options_that_the_function_does_not_take_are_named(folder: Path):
    with pytest.raises(InputError, match=r"cannot be called with the options of `data`: .*'size'"):
        problem(folder, "lazy", size=3)


JOB = """
name: mine
task: image_classification
data: {name: "mydata:DATA"}
model: {name: mlp, width: 4}
budget: {trials: 1, epochs: 2}
training: {batch_size: 8, num_workers: 1}
"""


def test_a_job_is_probed_on_it_and_stops_before_the_first_trial_where_it_is_wrong(folder: Path):
    (folder / "job.yaml").write_text(JOB)

    def probed(function: str) -> ProbeResult | Failed:
        spec = load_spec(folder / "job.yaml", [f"data.name=mydata:{function}"])
        return run_probe(spec, 0, 0.03)

    found = probed("lazy")
    assert isinstance(found, ProbeResult)
    assert found.architecture["parameters"] == 16 * 4 + 4 + 4 * 3 + 3
    streams = probed("streams")
    assert isinstance(streams, Failed)
    assert "Stream, not a map-style" in streams.reason
    broken = probed("broken")
    assert isinstance(broken, Failed)
    assert broken.reason == "OSError: no such picture"
    assert "mydata.py" in broken.traceback.splitlines()[1], "it begins in the user's file"


def test_paths_among_the_options_are_made_absolute_and_the_rest_is_as_it_is(folder: Path):
    (folder / "pictures").mkdir()
    given = ["data.folder=pictures", "data.scale=[0.5, 2]", "data.flip=true"]
    (folder / "job.yaml").write_text(JOB)
    found = load_spec(folder / "job.yaml", given).data
    assert found.options == {"folder": str(folder / "pictures"), "scale": [0.5, 2], "flip": True}


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ("data.classes=0", "data.classes: expected a whole number of at least 1, found 0"),
        ("data.classes=true", "data.classes: expected a whole number of at least 1, found True"),
        ("data.folder=nowhere", "there is no folder 'nowhere'"),
        ("data.name=mydata", "data: unknown data set of image_classification 'mydata'"),
        ("training.num_workers=-1", "training.num_workers: "),
    ],
)
def test_a_job_file_that_cannot_be_says_so(folder: Path, change: str, part: str):
    (folder / "job.yaml").write_text(JOB)
    with pytest.raises(SpecError) as raised:
        load_spec(folder / "job.yaml", [change])
    assert part in str(raised.value)
