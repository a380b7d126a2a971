"""Changes of single keys in the text of a job file."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from anon_tune.documents import load_yaml
from anon_tune.spec.editing import with_value

TEXT = """\
# A comment.
name: digits   # the job
model: cnn     # small
objective: {metric: loss, mode: min}
budget:        # per arm
  trials: 20   # configurations
  epochs: 12
arms:
  - anon
  - sgd
# The end.
"""


@pytest.mark.parametrize(
    ("path", "value", "now", "line"),
    [
        ("name", "other", "name: digits   # the job", "name: other   # the job"),
        ("budget.trials", 8, "  trials: 20   # configurations", "  trials: 8   # configurations"),
        ("objective.mode", "max", "{metric: loss, mode: min}", "{metric: loss, mode: max}"),
        ("objective.scale", "linear", "mode: min}", "mode: min, scale: linear}"),
        ("objective.metric", None, "{metric: loss, mode: min}", "{mode: min}"),
        ("objective.mode", None, "{metric: loss, mode: min}", "{metric: loss}"),
        ("budget.time", "2h", "  epochs: 12\n", "  epochs: 12\n  time: 2h\n"),
        ("budget.epochs", None, "  epochs: 12\n", ""),
        ("model.width", 32, "model: cnn     # small", "model: {name: cnn, width: 32}     # small"),
        ("model", "mlp", "model: cnn ", "model: mlp "),
        ("arms", ["anon"], "arms:\n  - anon\n  - sgd\n", "arms:\n  [anon]\n"),
        ("search.seed", 3, "  - sgd\n", "  - sgd\nsearch: {seed: 3}\n"),
        ("name", "2", "name: digits", "name: '2'"),
    ],
)
def test_a_key_changes_and_nothing_else(path: str, value: object, now: str, line: str):
    assert TEXT.count(now) == 1
    assert with_value(TEXT, path.split("."), value) == TEXT.replace(now, line)


@pytest.mark.parametrize(
    ("text", "path", "value", "found"),
    [
        ("", "name", "a", "name: a\n"),
        ("# Only this", "budget.trials", 2, "# Only this\nbudget: {trials: 2}\n"),
        ("", "name", None, ""),
        ("a: 1", "b", 2, "a: 1\nb: 2\n"),
        ("name:\nb: 1\n", "name", "x", "name: x\nb: 1\n"),
        ("budget: {trials: 2}\nname: a\n", "budget.trials", None, "name: a\n"),
        ("budget:\n  trials: 2\nname: a\n", "budget.trials", None, "name: a\n"),
        ("budget: {}\n", "budget.trials", 3, "budget: {trials: 3}\n"),
        ("{a: 1}", "a", None, "{}"),
    ],
)
def test_short_texts(text: str, path: str, value: object, found: str):
    assert with_value(text, path.split("."), value) == found


def test_an_unusual_layout_is_written_anew():
    assert load_yaml(with_value("? name\n: |\n  a\n  b\nother: 1\n", ["name"], "c")) == {
        "name": "c",
        "other": 1,
    }


def test_aliases_are_refused():
    with pytest.raises(yaml.YAMLError, match="alias"):
        with_value("a: &a 1\nb: *a\n", ["b"], 2)


scalars = st.one_of(st.integers(), st.booleans(), st.text(max_size=8), st.floats(allow_nan=False))
keys = st.sampled_from(["name", "budget", "x: y", "a#b", "n"])
documents = st.dictionaries(keys, scalars | st.dictionaries(keys, scalars | st.lists(scalars), min_size=1))


@example(document={}, path=["name"], value="\x85", block=False)
@example(document={"budget": "\u2028a"}, path=["name", "n"], value="\u2029", block=True)
@given(document=documents, path=st.lists(keys, min_size=1, max_size=2), value=scalars, block=st.booleans())
def test_the_text_says_what_was_asked_for(
    document: dict[str, object], path: list[str], value: object, block: bool
):
    text = yaml.safe_dump(document, default_flow_style=not block, sort_keys=False)
    found = load_yaml(with_value(text, path, value))
    for key in path:
        found = found[key]
    assert found == value or str(found) == str(value)
