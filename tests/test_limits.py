"""Limits of job files: work and memory of reading them, length of messages, ranges of values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from anon_tune import documents, submission
from anon_tune.documents import LARGEST_FILE, MOST_LEVELS, MOST_VALUES, load_yaml
from anon_tune.errors import SpecError
from anon_tune.search_spaces import load_space, new_space
from anon_tune.settings import Settings
from anon_tune.spec import JobSpec, load_spec, parse_spec, remote_spec, spaces_of, stored_spec
from anon_tune.texts import MOST_COUNTED, MOST_PROBLEMS

GOOD: dict[str, Any] = {
    "name": "limits",
    "task": "image_classification",
    "data": "digits",
    "model": "mlp",
    "budget": {"trials": 4, "epochs": 3},
}
SPACE: dict[str, Any] = {
    "optimizer": "nets:make",
    "summary": "mine",
    "parameters": {"lr": {"low": 0, "high": 1}},
}
MANY = 20_000


def refused(document: Mapping[str, Any], spaces: Mapping[str, Mapping[str, Any]] | None = None) -> SpecError:
    """Submit an invalid job as a service gets it. No ledger is read for that."""
    with pytest.raises(SpecError) as caught:
        submission.checked_remote(None, document, spaces or {}, Settings())  # type: ignore[arg-type]
    return caught.value


def nested(levels: int, key: str = "a") -> Any:
    value: Any = 0
    for _ in range(levels):
        value = {key: value}
    return value


def of_arms(space: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Mapping[str, Any]]]:
    return {**GOOD, "arms": ["anon", "mine.yaml"]}, {"mine.yaml": {**SPACE, **space}}


# Work


class CountedPoint(dict[str, float]):
    """Point that counts how often it is compared."""

    comparisons = 0
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        CountedPoint.comparisons += 1
        return super().__eq__(other)


def test_equal_points_are_found_without_comparing_each_with_each():
    spec = parse_spec({**GOOD, "budget": {"trials": 1000, "epochs": 3}})
    points = tuple(CountedPoint(gamma=n / 1000) for n in range(1000))
    search = spec.search.model_copy(update={"try_first": {"anon": (*points, points[3])}})
    larger = spec.budget.model_copy(update={"trials": 1001})
    spec = spec.model_copy(update={"search": search, "budget": larger})
    problems = list(spec.space_problems(spaces_of(spec)))
    assert problems == ["search.try_first.anon.1000: the same point is listed twice"]
    assert CountedPoint.comparisons <= len(points)


def test_points_beyond_the_trials_are_not_looked_at(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("anon_tune.search_spaces.Space.problems_of", lambda *_: pytest.fail("was called"))
    error = refused({**GOOD, "search": {"try_first": [{"gamma": n / MANY} for n in range(MANY)]}})
    assert error.problems == [f"search.try_first.anon: {MANY} points are more than budget.trials (4)"]


@pytest.mark.parametrize(
    ("document", "spaces"),
    [
        ({**GOOD, "spaces": {f"k{n}": "s.yaml" for n in range(MANY)}}, {}),
        ({**GOOD, "arms": ["anon", *(f"k{n}" for n in range(MANY))]}, {}),
        ({**GOOD, "search": {"try_first": {f"k{n}": [] for n in range(MANY)}}}, {}),
        ({**GOOD, **{f"k{n}": 0 for n in range(MANY)}}, {}),
        ({**GOOD, "data": {"name": "digits", **{f"k{n}": 0 for n in range(MANY)}}}, {}),
        (GOOD, {f"k{n}.yaml": {} for n in range(MANY)}),
        of_arms({"fixed": {f"k{n}": 0 for n in range(MANY)}}),
        of_arms({"parameters": {f"k{n}": 0 for n in range(MANY)}}),
        of_arms({"parameters": {"lr": {"choices": list(range(MANY))}}}),
        of_arms({"parameters": {"lr": {"low": 0, "high": 1, "when": {"x": list(range(MANY))}}}}),
        of_arms({"start": [{"x": 0}] * MANY}),
        of_arms({f"k{n}": 0 for n in range(MANY)}),
        of_arms({"summary": "x" * MANY}),
        ({**GOOD, "arguments": {"a": [0] * (MOST_VALUES + 1)}}, {}),
        ({**GOOD, "name": "x" * 2**20}, {}),
        ({**GOOD, "x" * 2**20: 0}, {}),
        ({**GOOD, "budget": {**GOOD["budget"], "time": "1" * 2**18 + "x"}}, {}),
        ({**GOOD, "task": None, "command": "a " * 2**19}, {}),
        ({**GOOD, "x": nested(MOST_LEVELS, "k" * 1100)}, {}),
        ({**GOOD, "x": nested(MOST_LEVELS - 3, "k" * 1100), "y": "\0"}, {}),
        ({**GOOD, "x": nested(10_000)}, {}),
        ({**GOOD, "x": ["\0"] * MANY}, {}),
    ],
)
def test_work_and_messages_do_not_grow_with_the_document(
    monkeypatch: pytest.MonkeyPatch, document: dict[str, Any], spaces: dict[str, Any]
):
    compared = []
    closest = documents.difflib.get_close_matches
    monkeypatch.setattr(
        documents.difflib,
        "get_close_matches",
        lambda *given, **more: compared.append(given) or closest(*given, **more),
    )
    error = refused(document, spaces)
    assert len(compared) <= MOST_COUNTED + 1
    assert 1 <= len(error.problems) <= MOST_PROBLEMS + 1
    assert len(str(error)) < 12_000


# YAML


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{of}'] * 9)}]\n"
    for of, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "line 5, column 4: invalid YAML (more than 50,000 values)"),
        (
            BOMB.replace("[*", "{<<: [*").replace("]\n", "]}\n").replace("[x", "{y: [x"),
            "more than 50,000 values",
        ),
        ("x: " + "[" * 2000, "line 1, column 67: invalid YAML (more than 64 levels)"),
        ("".join(f"{' ' * n}a:\n" for n in range(900)), "more than 64 levels"),
        ("a0: &a0 1\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 99)), "more than 64 levels"),
        ("x: &x [1, *x]", "*x is a part of itself"),
        ("x: 1" + ":1" * 10_000, "a number of 20,001 characters"),
        ("x: 1" + ":1" * 10_000 + ".5", "a number of 20,003 characters"),
        ("#" * (LARGEST_FILE + 1), "is larger than 1,048,576 bytes"),
    ],
    ids=["aliases", "merged keys", "brackets", "indentation", "chain", "cycle", "whole", "real", "file"],
)
def test_yaml_that_stands_for_too_much_is_refused(tmp_path: Path, text: str, said: str):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    for read in (load_spec, lambda path: load_space(str(path))):
        with pytest.raises(SpecError) as caught:
            read(path)
        assert said in str(caught.value)
        assert len(str(caught.value)) < 1000


def test_yaml_may_have_aliases():
    assert load_yaml("a: &a {x: [1, 2]}\nb: *a\nc: {<<: *a, y: 3}") == {
        "a": {"x": [1, 2]},
        "b": {"x": [1, 2]},
        "c": {"x": [1, 2], "y": 3},
    }


# Values


LARGE = [
    ("resources.cpu", 10**12, "expected at most 4,096"),
    ("resources.gpu", 1e300, "expected at most 64, found 1e+300"),
    ("training.batch_size", 10**15, "expected at most 10,000,000"),
    ("training.accumulate", 10**15, "expected at most 10,000,000"),
    ("search.grace", 10**15, "expected at most 1,000,000,000"),
    ("model.width", 10**12, "expected at most 1,000,000,000"),
    ("data.train", 10**12, "expected at most 1,000,000,000"),
]


@pytest.mark.parametrize(("path", "value", "said"), LARGE, ids=[path for path, *_ in LARGE])
def test_values_that_no_machine_can_meet_are_refused_and_read_in_old_jobs(path: str, value: float, said: str):
    section, key = path.split(".")
    named = {"model": {"name": "mlp"}, "data": {"name": "rosenbrock"}}
    if section == "data":
        named["data"] = {"name": "python_source"}
    document = {**GOOD, section: {**named.get(section, {}), key: value}}
    if section == "data":
        document = {**document, "task": "language_model", "model": "lstm"}
    with pytest.raises(SpecError) as caught:
        parse_spec(document)
    assert caught.value.problems == [
        f"{path}: {said}" if "found" in said else f"{path}: {said}, found {value}"
    ]
    assert isinstance(stored_spec(document), JobSpec)


@pytest.mark.parametrize("duration", ["\u0663s", "\uff13s", "3\u00a0s\u202e"])
def test_durations_have_ascii_digits(duration: str):
    with pytest.raises(SpecError, match="expected a duration"):
        parse_spec({**GOOD, "budget": {**GOOD["budget"], "time": duration}})


def test_the_number_of_reports_has_ascii_digits():
    with pytest.raises(SpecError, match="objective"):
        parse_spec({**GOOD, "objective": {"of": "last \u0663"}})
    with pytest.raises(SpecError, match="objective"):
        parse_spec({**GOOD, "objective": {"of": "last 3\u0663"}})


def test_names_are_stripped_and_normalized():
    spec = remote_spec({**GOOD, "name": " Zoe\u0308 "}, {})
    assert spec.name == "Zo\u00eb"
    with pytest.raises(SpecError, match="RIGHT-TO-LEFT OVERRIDE"):
        parse_spec({**GOOD, "name": "a\u202eb"})
    with pytest.raises(SpecError, match=r"objective\.metric: .*RIGHT-TO-LEFT OVERRIDE"):
        parse_spec({**GOOD, "objective": {"metric": "a\u202eb"}})


def test_the_spaces_that_come_with_anon_tune_are_far_below_the_limits():
    space = new_space({**SPACE, "parameters": {f"p{n}": {"low": 0, "high": 1} for n in range(100)}}, "space")
    assert len(space.parameters) == 100
