"""A job in HTML without other files: what it says, what it escapes, and that it needs nothing else."""

from __future__ import annotations

import html.parser
import json
from typing import Any

import pytest

from anon_tune.dashboards.pages.report import MOST_TRIALS, Picture, notebook_part, report_page
from anon_tune.records import ENDED, ArmRecord, JobRecord, JobState, Overview, Phase, TrialState
from anon_tune.sentences import EXPLAINED, about_gamma, about_verdicts
from anon_tune.views import JobView, TrialView, job_view, trial_view
from tests import builders
from tests.answers import answer, compared

ODD = "<script>alert('x')</script> & </style>"


def job(state: JobState = JobState.SUCCEEDED, result: dict[str, Any] | None = None, **keys: Any) -> JobView:
    spec = {**builders.spec().model_dump(mode="json"), "name": ODD}
    usual = {"name": ODD, "owner": ODD, "architecture": {"family": "mlp", "parameters": 12345}}
    now = {"state": state, "phase": Phase.VERDICT, "created": builders.EPOCH, "result": result}
    record = JobRecord(id="abc", spec=spec, **{**now, **usual, **keys})
    arms = {arm: ArmRecord({TrialState.COMPLETE: 4}, {}, None, 0, 0.0) for arm in spec["arms"]}
    return job_view(Overview(record, arms, 0))


def trials(count: int) -> list[TrialView]:
    return [
        trial_view(builders.trial(n, value=float(count - n), hyperparameters={"lr": 0.1, "kind": ODD}, reason=ODD))
        for n in range(count)
    ]  # fmt: skip


FOUND = answer(verdict=[compared("adamw"), compared("sgd", of="optimizer")])
DONE = job(result=FOUND.model_dump(mode="json"))
PICTURE = Picture(
    "response",
    ODD,
    ODD,
    json.dumps({"data": [], "layout": {"title": ODD}, "themes": {"light": {}, "dark": {}}}),
)


class Page(html.parser.HTMLParser):
    """What a browser makes of a page: its text, its elements, and the scripts in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.said, self.elements, self.scripts, self.opened = "", list[tuple[str, dict[str, Any]]](), [], ""
        self.feed(text)
        self.said = " ".join(self.said.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.opened, self.said = tag, f"{self.said} "
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.opened = ""

    def handle_data(self, data: str) -> None:
        if self.opened == "script":
            self.scripts[-1] += data
        elif self.opened != "style":
            self.said += data


def test_a_report_has_the_answer_the_verdict_tables_settings_and_words():
    page = Page(report_page(DONE, trials(3), [PICTURE], "lr: 0.1"))
    said = [*about_gamma(FOUND), *about_verdicts(FOUND, builders.spec()), *EXPLAINED.values()]
    for sentence in said:
        assert sentence[1:] in page.said
    assert "mlp, 12,345 parameters" in page.said
    assert "adamw these settings undecided -3% -9% to +4% 10" in page.said
    assert "j-anon-s002" in page.said
    assert "batch_size" in page.said
    assert "lr: 0.1" in page.said
    assert "What to do next" in page.said


def test_names_of_users_are_text():
    text = report_page(DONE, trials(2), [PICTURE], ODD)
    page = Page(text)
    assert page.said.count("<script>alert('x')</script> & </style>") >= 8
    assert not [script for script in page.scripts if script.strip().startswith("alert")]
    assert sum(tag == "style" for tag, _ in page.elements) == 1
    assert json.loads(page.scripts[0])["layout"]["title"] == ODD
    part = Page(notebook_part(DONE, [PICTURE], with_plotly=False))
    assert part.said.startswith(ODD)
    assert json.loads(part.scripts[0])["layout"]["title"] == ODD


def test_a_report_names_no_other_file_and_is_small_enough_to_send():
    text = report_page(DONE, trials(MOST_TRIALS), [PICTURE], None)
    page = Page(text)
    addresses = [
        value for _, keys in page.elements for name, value in keys.items() if name in {"src", "href"}
    ]
    assert addresses == []
    assert len(text.encode()) < 3_000_000
    assert sum(keys.get("class") == "anon-tune-plotly" for _, keys in page.elements) == 1


def test_a_picture_that_is_too_large_to_send_is_named():
    large = Picture("curves", "Learning curves", "", json.dumps("x" * 2_000_000))
    text = report_page(DONE, trials(1), [large, PICTURE], None)
    assert len(text) < 3_000_000
    assert "too large to send: Learning curves." in Page(text).said
    assert "too large" not in Page(report_page(DONE, trials(1), [PICTURE], None)).said


def test_a_long_job_has_its_best_trials_listed_in_order():
    count = MOST_TRIALS + 20
    page = Page(
        report_page(DONE, [*trials(count), trial_view(builders.trial(9999, TrialState.FAILED))], [], None)
    )
    assert f"The 500 best of {count + 1} trials." in page.said
    listed = [word for word in page.said.split() if word.startswith("j-anon-s")]
    assert listed == [f"j-anon-s{n:03}" for n in range(20, count)]
    assert "anon-tune trials abc -o trials.csv" in page.said
    assert "best of" not in Page(report_page(DONE, trials(3), [], None)).said


@pytest.mark.parametrize("state", list(JobState))
def test_a_job_without_an_answer_says_so(state: JobState):
    found = job(state, reason="the disk is full" if state is JobState.FAILED else None)
    page = Page(report_page(found, [], [], None))
    is_over = state in ENDED
    assert f"This job has no answer{'' if is_over else ' yet'}." in page.said
    assert ("Fix the cause, then run the job file again" in page.said) is (state is JobState.FAILED)
    assert "There are no trials yet." in page.said
    assert ("the disk is full" in page.said) is (state is JobState.FAILED)
    assert ("in its verdict phase" in page.said) is (not found.is_at_rest)
    assert "no answer" in Page(notebook_part(found, [], with_plotly=False)).said


def test_an_answer_from_before_an_extension_is_called_so():
    found = job(JobState.QUEUED, result=FOUND.model_dump(mode="json"))
    assert "from before the job's budget was raised" in Page(report_page(found, [], [], None)).said


def test_only_one_output_of_a_notebook_holds_plotly():
    first, second = (notebook_part(DONE, [PICTURE], with_plotly=each) for each in (True, False))
    assert len(first) > 1_000_000
    assert len(second) < 40_000
