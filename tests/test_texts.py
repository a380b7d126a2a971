"""Names in one form, and messages of bounded length."""

from __future__ import annotations

import itertools

import pytest

from anon_tune.errors import SpecError
from anon_tune.texts import LONGEST_VALUE, MOST_COUNTED, MOST_PROBLEMS, listed, plain_name, quoted


def test_a_message_lists_some_problems_and_counts_the_others():
    few = [f"{n}: is missing" for n in range(MOST_PROBLEMS)]
    assert listed(few) == few
    assert listed([*few, *few[:5]]) == [*few, "and 5 more"]
    endless = (f"{n}: is missing" for n in itertools.count())
    assert listed(endless) == [*few, "and many more"]
    assert next(endless) == f"{MOST_COUNTED + 1}: is missing"


def test_a_list_that_a_service_has_shortened_stays_as_it_is():
    shortened = SpecError("job", map(str, range(50))).problems
    assert len(shortened) == MOST_PROBLEMS + 1
    assert SpecError("job", shortened).problems == shortened


def test_a_problem_is_cut_wherever_it_is_long():
    assert max(map(len, listed(["x" * 10**6]))) < 1100
    assert quoted("short") == "'short'"
    assert quoted([0] * 10**5) == f"[{'0, ' * 66}0..."
    assert len(quoted("x" * 10**6)) == LONGEST_VALUE + 3


def test_names_that_look_alike_are_alike():
    assert plain_name("  Zoe\u0308 ", 80) == plain_name("Zo\u00eb", 80) == "Zo\u00eb"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (" \t ", "found 0"),
        ("x" * 81, "found 81"),
        ("a\u202eb", r"U\+202E \(RIGHT-TO-LEFT OVERRIDE\)"),
        ("a\u2066b", r"U\+2066 \(LEFT-TO-RIGHT ISOLATE\)"),
        ("a\u200bb", r"U\+200B \(ZERO WIDTH SPACE\)"),
        ("a\nb", r"U\+000A \(a control character\)"),
    ],
)
def test_a_character_that_nobody_sees_is_named(name: str, said: str):
    with pytest.raises(ValueError, match=said):
        plain_name(name, 80)
