"""The tables of states."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from anon_tune.errors import TransitionError
from anon_tune.records import (
    ENDED,
    FINISHED,
    JOB_TRANSITIONS,
    TRIAL_TRANSITIONS,
    JobState,
    TrialState,
    check_transition,
    state_diagram,
)

RELIABILITY = (Path(__file__).parents[1] / "docs" / "reliability.md").read_text()


def test_the_docs_draw_the_tables_of_the_code():
    drawn = re.findall(r"```mermaid\n(.*?)\n```", RELIABILITY, re.DOTALL)
    assert drawn == [state_diagram(JOB_TRANSITIONS), state_diagram(TRIAL_TRANSITIONS)]


@pytest.mark.parametrize(
    ("table", "ends"), [(JOB_TRANSITIONS, ENDED), (TRIAL_TRANSITIONS, FINISHED)], ids=["job", "trial"]
)
def test_a_diagram_has_each_transition_once(table, ends):
    arrows = [tuple(line.split(" --> ")) for line in state_diagram(table).splitlines()[1:]]
    arrows = [(before.strip(), after) for before, after in arrows]
    expected = {(before, after) for before, allowed in table.items() for after in allowed}
    assert set(arrows) == expected | {("[*]", next(iter(table)))} | {(end, "[*]") for end in ends}
    assert len(arrows) == len(set(arrows))


@pytest.mark.parametrize(("kind", "table"), [(JobState, JOB_TRANSITIONS), (TrialState, TRIAL_TRANSITIONS)])
def test_the_table_decides(kind, table):
    assert set(table) == set(kind)
    for before in kind:
        for after in kind:
            if after in table[before]:
                check_transition(before, after)
            else:
                with pytest.raises(TransitionError, match=f"{before} cannot become {after}"):
                    check_transition(before, after)
