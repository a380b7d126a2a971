"""Tables for a terminal: they fit, and say what they should."""

from __future__ import annotations

import io

import pytest
from rich.console import Console, RenderableType

from anon_tune.console import space_view, spaces_view
from anon_tune.search_spaces import Space, load_space, space_names


def text(view: RenderableType, width: int = 100) -> str:
    written = io.StringIO()
    Console(width=width, file=written).print(view, highlight=False)
    return written.getvalue()


def test_the_list_of_spaces_has_a_line_for_everything_within_100_columns():
    spaces = {name: load_space(name) for name in space_names()}
    lines = text(spaces_view(spaces)).splitlines()
    rows = sum(1 + len(space.parameters) + len(space.fixed) for space in spaces.values())
    assert len(lines) == rows + 1  # nothing wraps
    (shown,) = [line for line in lines if line.split()[0] == "delay_period"]
    assert " ".join(shown.split()) == "delay_period 1 to 200, whole, log where delay_family is every"


@pytest.mark.parametrize("name", space_names())
def test_one_space_is_shown_with_its_meanings(name: str):
    space = load_space(name)
    shown = text(space_view(name, space), width=200)
    assert space.summary in shown
    for coordinate, domain in space.parameters.items():
        assert f"  {coordinate} " in shown
        assert domain.text in shown
    assert all(len(line.split()) > 2 for line in shown.splitlines()[2:])
    assert ("floor" in shown) == (space.optimizer == "anon")
    assert ("delay_power" in shown) == space.is_conditional


def test_a_finite_space_says_how_many_configurations_it_has():
    document = {
        "optimizer": "sgd",
        "summary": "x",
        "parameters": {"lr": {"choices": [0.1, 1]}},
        "fixed": {"momentum": 0.9, "weight_decay": 0},
    }
    shown = text(space_view("x", Space.model_validate(document)))
    assert "2 configurations" in shown
    assert "0.9 (fixed)" in shown
