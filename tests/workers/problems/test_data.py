"""Readers of published formats, on small files written here, and on the real ones where they are at hand."""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_digits
from sklearn.model_selection import train_test_split

from anon_tune.errors import InputError
from anon_tune.workers.problems.data import Images, Split, read_images
from anon_tune.workers.problems.data.cifar10 import cifar10
from anon_tune.workers.problems.data.digits import digits
from anon_tune.workers.problems.data.idx import idx, read_idx
from anon_tune.workers.problems.data.table import csv, diabetes
from anon_tune.workers.problems.data.text import python_source, text
from anon_tune.workers.problems.tasks import load_problem

TRAIN, TEST = 40, 10
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (TRAIN + TEST, 4, 6), dtype=np.uint8)
LABELS = np.arange(TRAIN + TEST, dtype=np.uint8) % 3


def idx_bytes(values: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def test_the_digits_are_those_of_scikit_learn_split_by_class():
    """The file in the package, for scikit-learn takes longer to load than torch."""
    images, classes = load_digits(return_X_y=True)
    split = partial(train_test_split, random_state=0)
    rest, test = split(np.arange(len(images)), test_size=0.2, stratify=classes)
    train, validation = split(rest, test_size=0.25, stratify=classes[rest])
    mean, std = images[train].mean(), images[train].std()
    found = digits()
    for chosen, held in ((train, found.train), (validation, found.validation), (test, found.test)):
        scaled = torch.tensor((images[chosen] - mean) / std, dtype=torch.float32)
        assert torch.equal(held.inputs, scaled.reshape(-1, 1, 8, 8))
        assert held.targets.tolist() == classes[chosen].tolist()


def test_the_diabetes_data_are_those_of_scikit_learn(tmp_path: Path):
    load_diabetes(as_frame=True).frame.to_csv(tmp_path / "diabetes.csv", index=False)
    found, expected = diabetes(), csv(str(tmp_path / "diabetes.csv"), "target")
    assert found.deviation == expected.deviation
    for split in ("train", "validation", "test"):
        assert torch.equal(getattr(found, split).inputs, getattr(expected, split).inputs)
        assert torch.equal(getattr(found, split).targets, getattr(expected, split).targets)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The four files, one of them compressed."""
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(IMAGES[:TRAIN])))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(LABELS[:TRAIN]))
    (tmp_path / "t10k-images.idx3-ubyte").write_bytes(idx_bytes(IMAGES[TRAIN:]))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(LABELS[TRAIN:]))
    return tmp_path


def pairs(images: Images, *names: str) -> set[tuple[bytes, int]]:
    splits = [getattr(images, name) for name in names or ("train", "validation", "test")]
    return {
        (image.numpy().tobytes(), int(label))
        for split in splits
        for image, label in zip(split.inputs, split.targets, strict=True)
    }


def written(start: int, stop: int) -> set[tuple[bytes, int]]:
    return {(IMAGES[i].tobytes(), int(LABELS[i])) for i in range(start, stop)}


def test_idx_files_are_read_as_they_were_written(folder: Path):
    found = idx(str(folder), 0, 8, 0)
    assert (len(found.train), len(found.validation), len(found.test)) == (TRAIN - 8, 8, TEST)
    assert (found.shape, found.classes) == ((1, 4, 6), 3)
    assert pairs(found, "train", "validation") == written(0, TRAIN)
    assert pairs(found, "test") == written(TRAIN, TRAIN + TEST)
    assert not pairs(found, "train") & pairs(found, "validation")


def test_the_splits_are_the_same_each_time_and_validation_whatever_is_trained_on(folder: Path):
    torch.manual_seed(1)
    few = idx(str(folder), 5, 8, 3)
    torch.manual_seed(2)
    all_of_them = idx(str(folder), 0, 8, 0)
    assert (len(few.train), len(few.test)) == (5, 3)
    assert torch.equal(few.validation.inputs, all_of_them.validation.inputs)
    assert torch.equal(few.train.inputs, all_of_them.train.inputs[:5])


def test_the_model_gets_images_of_mean_0_and_deviation_1(folder: Path):
    options = {"folder": str(folder), "validation": 8}
    problem = load_problem("image_classification", "idx", "mlp", {}, options)
    assert problem.train.inputs.dtype == torch.uint8, "a byte a pixel while it waits"
    seen = []
    model = problem.build_model()
    model.register_forward_pre_hook(lambda _, inputs: seen.append(*inputs))
    problem.loss(model, problem.train, 0.0).backward()
    assert (seen[0].mean().item(), seen[0].std().item()) == pytest.approx((0, 1), abs=1e-3)
    assert model(seen[0]).shape == (TRAIN - 8, 3)


def damage(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        path = folder / name
        path.write_bytes(change(path.read_bytes()))

    return do


LABEL_FILE = "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (lambda f: (f / LABEL_FILE).unlink(), ["There is no train-labels-idx1-ubyte", "Download"]),
        (damage(LABEL_FILE, lambda b: b"PK" + b), [LABEL_FILE, "begins with 50 4b", "not with 00 00 08 01"]),
        (damage(LABEL_FILE, lambda b: b[:-3]), ["says it holds 40 bytes, and 37 follow"]),
        (damage(LABEL_FILE, lambda b: b[:6]), [LABEL_FILE, "not an IDX file"]),
        (damage(LABEL_FILE, lambda b: b""), [LABEL_FILE, "not an IDX file"]),
        (damage(LABEL_FILE, lambda _: idx_bytes(LABELS[:9])), ["has 40 images", "9 labels"]),
        (damage("t10k-labels-idx1-ubyte", lambda _: idx_bytes(LABELS[:TEST] + 2)), ["the label 4", "end at 2"]),
        (damage("train-images-idx3-ubyte.gz", lambda b: b[:50]), ["train-images-idx3-ubyte.gz cannot be read"]),
        (damage("t10k-images.idx3-ubyte", lambda _: idx_bytes(IMAGES[:TEST, :, :5])), ["4 x 6 pixels", "4 x 5"]),
    ],
)  # fmt: skip
def test_a_file_that_is_not_what_it_should_be_is_named(
    folder: Path, spoil: Callable[[Path], None], parts: list[str]
):
    spoil(folder)
    with pytest.raises(InputError) as raised:
        idx(str(folder), 0, 8, 0)
    assert all(part in str(raised.value) for part in parts), raised.value


@pytest.mark.parametrize("sizes", [(33, 8, 0), (0, 40, 0), (0, 8, 11)])
def test_more_than_there_is_is_refused(folder: Path, sizes: tuple[int, int, int]):
    with pytest.raises(InputError, match=r"has 40 training and 10 test images; data\.train"):
        idx(str(folder), *sizes)


def cifar_rows(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.uint8)[:, None] % 10
    return np.hstack([labels, rng.integers(0, 256, (count, 3072), dtype=np.uint8)])


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    for number in range(1, 6):
        (tmp_path / f"data_batch_{number}.bin").write_bytes(cifar_rows(10, number).tobytes())
    (tmp_path / "test_batch.bin").write_bytes(cifar_rows(10, 6).tobytes())
    return tmp_path


def test_cifar10_is_read_as_it_was_written(cifar: Path):
    found = cifar10(str(cifar), 0, 5, 0)
    assert (len(found.train), found.shape, found.classes) == (45, (3, 32, 32), 10)
    rows = cifar_rows(10, 6)
    assert pairs(found, "test") == {(row[1:].tobytes(), int(row[0])) for row in rows}
    assert found.test.inputs[0, 0, 0, 1] == rows[0, 2], "red, row by row"


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (lambda f: (f / "data_batch_3.bin").unlink(), r"data_batch_3\.bin cannot be read .*cifar-10-binary"),
        (damage("data_batch_3.bin", lambda b: b[:-1]), r"has 30,729 bytes, not a multiple of 3,073"),
        (damage("data_batch_3.bin", lambda b: b""), r"has 0 bytes"),
        (damage("test_batch.bin", lambda b: b"\xc8" + b[1:]), r"test_batch\.bin has the label 200"),
    ],
)
def test_a_cifar_file_that_is_not_what_it_should_be_is_named(
    cifar: Path, spoil: Callable[[Path], None], part: str
):
    spoil(cifar)
    with pytest.raises(InputError, match=part):
        cifar10(str(cifar), 0, 5, 0)


LETTERS = "to be, or not to bé: " * 50


def test_a_text_is_cut_into_windows_with_the_tokens_that_follow(tmp_path: Path):
    path = tmp_path / "text.txt"
    path.write_text(LETTERS, encoding="utf-8")
    found = text(str(path), "char", 7, 0)
    known = sorted(set(LETTERS))
    assert (found.vocabulary, found.length) == (len(known), 7)

    def letters(tokens: torch.Tensor) -> str:
        return "".join(known[token] for token in tokens.flatten().tolist())

    end = 0
    for split, share in ((found.train, 0.8), (found.validation, 0.1), (found.test, 0.1)):
        part = LETTERS[end : end + int(share * len(LETTERS))]
        count = 7 * len(split)
        assert len(part) - 1 - 7 < count <= len(part) - 1, "no more than a window is left out"
        assert (letters(split.inputs), letters(split.targets)) == (part[:count], part[1 : count + 1])
        end += len(part)
    assert len(text(str(path), "char", 7, 9).train) == 9


def test_any_file_is_text_by_its_bytes(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 4)
    with pytest.raises(InputError, match=r"not UTF-8 text .* data\.level: byte reads any file"):
        text(str(path), "char", 4, 0)
    found = text(str(path), "byte", 4, 0)
    assert found.vocabulary == 256
    assert found.train.inputs[1].tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize(
    ("content", "level", "length", "train", "part"),
    [
        ("", "char", 4, 0, "has 0 tokens"),
        ("a" * 30, "char", 4, 0, "has 30 tokens; a tenth of them"),
        (LETTERS, "word", 4, 0, "data.level: expected char or byte, found 'word'"),
        (LETTERS, "char", 4, 999, "has 209 windows to train on; data.train asks for 999"),
    ],
)
def test_a_text_that_will_not_do_says_why(
    tmp_path: Path, content: str, level: str, length: int, train: int, part: str
):
    path = tmp_path / "text.txt"
    path.write_text(content)
    with pytest.raises(InputError, match=part):
        text(str(path), level, length, train)


def test_a_text_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"nothing\.txt cannot be read: No such file"):
        text(str(tmp_path / "nothing.txt"), "char", 4, 0)


def test_the_source_of_python_is_the_same_each_time():
    once, again = python_source(32, 0), python_source(32, 0)
    assert torch.equal(once.train.inputs, again.train.inputs)
    assert sum(len(split) for split in (once.train, once.validation, once.test)) > 30_000


ROWS = np.round(RNG.normal(50, 10, (60, 3)), 3)


def write_table(path: Path, header: str = "age,dose,score", rows: np.ndarray = ROWS) -> Path:
    np.savetxt(path, rows, delimiter=",", header=header, comments="", fmt="%s")
    return path


def test_a_table_is_standardized_by_what_is_trained_on(tmp_path: Path):
    found = csv(str(write_table(tmp_path / "x.csv")), "dose")
    assert [len(split) for split in (found.train, found.validation, found.test)] == [36, 12, 12]
    assert found.shape == (2,)
    for values in (found.train.inputs, found.train.targets):
        assert torch.allclose(values.mean(dim=0), torch.zeros(()), atol=1e-5)
        assert torch.allclose(values.std(dim=0, correction=0), torch.ones(()), atol=1e-5)
    # Undone, each row is one of the file, and each of the file is there once.
    targets = torch.cat([split.targets for split in (found.train, found.validation, found.test)])
    shift = ROWS[:, 1].mean() - found.deviation * targets.mean().item()
    assert np.allclose(np.sort(found.deviation * targets.numpy() + shift), np.sort(ROWS[:, 1]), atol=1e-3)


def test_the_error_is_given_in_the_unit_of_the_target(tmp_path: Path):
    file = str(write_table(tmp_path / "x.csv"))
    problem = load_problem("regression", "csv", "mlp", {}, {"file": file, "target": "dose"})
    model = problem.build_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    measured = problem.measure(model, problem.train)  # it says the mean, whose error is the deviation
    assert measured["loss"] == pytest.approx(1.0, abs=1e-5)
    assert measured["rmse"] == pytest.approx(csv(file, "dose").deviation, rel=1e-5)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("", "is not a CSV file"),
        ("a,b\n1,2\n", r"has no column 'dose' \(data.target\). Its columns: a, b"),
        ("a,dose\nx,2\n", "column 'a' holds text"),
        (
            "a,dose\n1,2\n3,\n,5\n4,\n",
            r"column 'a' has no number in row 3 after the header \(and in 0 others\)",
        ),
        (
            "a,dose\n1,2\n3,\n4,\n",
            r"column 'dose' has no number in row 2 after the header \(and in 1 others\)",
        ),
        ("a,dose\n1,inf\n", "column 'dose' has no number in row 1"),
        ("a,dose\n1,2\n", "has 1 rows of 2 columns"),
        ("dose\n" + "1\n" * 20, "has 20 rows of 1 columns"),
    ],
)
def test_a_table_that_will_not_do_says_why(tmp_path: Path, content: str, part: str):
    path = tmp_path / "x.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=part):
        csv(str(path), "dose")


@pytest.mark.parametrize(
    ("name", "options", "part"),
    [("idy", {}, "did you mean 'idx'"), ("idx", {"foldr": "x"}, "did you mean 'folder'")],
)
def test_what_cannot_be_read_says_what_can(name: str, options: dict[str, str], part: str):
    with pytest.raises(InputError, match=part):
        read_images(name, options)


DATA = Path(os.environ.get("ANON_TUNE_DATA", "nowhere")) / "fashion-mnist"


@pytest.mark.skipif(not DATA.is_dir(), reason="ANON_TUNE_DATA has no fashion-mnist")
def test_fashion_mnist_is_what_its_authors_published():
    found = idx(str(DATA), 0, 10_000, 0)
    assert [len(split) for split in (found.train, found.validation, found.test)] == [50_000, 10_000, 10_000]
    assert torch.bincount(found.test.targets).tolist() == [1_000] * 10
    # The figures everybody uses: 0.2860 and 0.3530.
    assert (found.mean.item(), found.std.item()) == pytest.approx((0.2860, 0.3530), abs=2e-3)
    assert read_idx(DATA / "t10k-labels-idx1-ubyte.gz", 1)[:5].tolist() == [9, 2, 1, 1, 6]


@pytest.mark.parametrize("count", [1, 7, 200, 203])
def test_batches_are_the_examples_in_the_order_that_was_asked_for(count: int):
    """However many are picked at a time."""
    examples = Split(torch.rand(203, 2), torch.arange(203))
    order = torch.randperm(203)[:count]
    batches = list(examples.batches(4, order))
    assert [len(batch) for batch in batches] == [len(part) for part in order.split(4)]
    assert torch.equal(torch.cat([batch.inputs for batch in batches]), examples.inputs[order])
    assert torch.equal(torch.cat([batch.targets for batch in batches]), order)
    stored = list(examples.batches(4))
    assert torch.equal(torch.cat([batch.targets for batch in stored]), examples.targets)
    assert len(stored[-1]) == 3
