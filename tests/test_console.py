"""Tables for a terminal: they fit, and say what they should."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import pytest
from rich.console import Console, RenderableType

from anon_tune.answer import Outcome, Search, Spent, Stopped
from anon_tune.console import jobs_table, live_view, report, space_view, spaces_view, trials_table
from anon_tune.next_steps import next_steps
from anon_tune.records import (
    ArmRecord,
    JobRecord,
    JobState,
    LeaseRecord,
    Overview,
    Phase,
    TrialState,
)
from anon_tune.search_spaces import Space, load_space, space_names
from anon_tune.sentences import about_cost, about_stopping, amount, signed
from anon_tune.spec import parse_spec
from anon_tune.views import JobView, job_view, trial_view
from tests import answers, builders
from tests.answers import GAMMA, answer, compared, stored
from tests.test_views import view


def text(view: RenderableType, width: int = 100) -> str:
    written = io.StringIO()
    Console(width=width, file=written).print(view, highlight=False)
    return written.getvalue()


def job(state: JobState = JobState.SUCCEEDED, gpu: float = 0.0, repeats: int = 1, **fields: Any) -> JobView:
    spec = builders.spec(arms=["anon", "sgd"], search={"repeats": repeats}).model_dump(mode="json")
    spec["resources"]["gpu"] = gpu
    record = JobRecord("j", "a job", state, Phase.VERDICT, spec, builders.EPOCH, **fields)
    return job_view(Overview(record, dict.fromkeys(spec["arms"], ArmRecord({}, {}, None, 0, 0.0)), 0))


def test_a_job_that_waits_says_why():
    queued = job(JobState.QUEUED).model_copy(update={"waiting": "3 jobs are ahead"})
    for shown in (text(report(queued)), text(live_view(queued, 1.0, queued))):
        assert "  waiting: 3 jobs are ahead\n" in shown


def test_a_report_says_what_was_found_how_sure_it_is_and_what_to_do_next():
    verdict = [
        compared("adamw", detectable=0.066, seeds_needed=35),
        compared("adamw", of="optimizer", low=-0.17, high=0.13, note="rough: from one search of each"),
    ]
    shown = text(report(job(result=stored(verdict=verdict))), 250)
    for said in (
        "one run each cannot rank gamma -0.20 to 0.90: seeds alone change the result by 5% (standard deviation); "
        "to tell 1% apart takes about 400 runs of each gamma",
        "Anon with the settings below: undecided against adamw",
        "recommended gamma 0.50; by the trials of the search, the best gamma is between 0.20 and 0.80 (90% interval)",
        "with all else tuned, gamma 0 costs +12% (+5% to +21%); gamma 1 costs +0.3% (+0% to +2%) (90% intervals)",
        "recommended: gamma 0.5  lr 0.01  betas (0.9, 0.999, 0.5)  delay 2.5",
        "gamma: adaptivity: 0 scales steps as SGD does, 1 as Adam",
        "There is no evidence that Anon is better or worse than adamw.",
        "No winner between these settings of Anon and these of adamw: test loss 3% lower (-9% to +4%, 10 seeds). "
        "A difference of 6.6% would have shown; if the true difference is 3%, about 40 more seeds would show it.",
        "Whether Anon would beat adamw if each were tuned anew with 4 trials is undecided: -17% to +13% (rough: from "
        "one search of each).",
    ):
        assert said in shown
    rows = [line.split() for line in shown.splitlines()]
    assert ["adamw", "these", "settings", "undecided", "-3%", "-9%", "to", "+4%", "10"] in rows
    assert ["adamw", "if", "tuned", "anew", "undecided", "-3%", "-17%", "to", "+13%", "10"] in rows


def test_several_searches_say_what_each_found():
    searches = [
        Search(
            arm=arm, repeat=repeat, trial="t", gamma=gamma if arm == "anon" else None, confirm=0.1, test=test
        )
        for repeat, (gamma, tests) in enumerate([(0.9, (0.25, 0.26)), (1.1, (0.24, None))])
        for arm, test in zip(("anon", "sgd"), tests, strict=True)
    ]
    verdict = [
        compared(seeds=10),
        compared(
            of="optimizer",
            outcome=Outcome.BETTER,
            searches=2,
            seeds=6,
            note="measured over 2 searches of each",
        ),
    ]
    found = job(result=stored(("anon", "sgd"), searches=searches, verdict=verdict), repeats=2)
    shown = text(report(found), 250)
    for said in (
        "compared: anon and sgd, each tuned with 4 trials in each of 2 searches; then the best settings of each on "
        "up to 10 fresh seeds",
        "2 searches of anon chose gamma 0.90 and 1.10",
        "test loss of the winner of each search, fresh seeds: anon 0.25, 0.24; sgd 0.26, -",
        "Anon would beat sgd if each were tuned anew with 4 trials: -9% to +4% (measured over 2 searches of each).",
    ):
        assert said in shown
    assert "searches of" not in text(report(job(result=stored())))


def took(seconds: Mapping[str, tuple[float, float]], typical: Mapping[str, float | None]) -> list[Spent]:
    """Costs of arms that took so long in the search and in the verdict."""
    return [
        Spent(
            arm=arm, phase=phase, trials=4, epochs=6, steps=60, seconds=each,
            typical=typical[arm] if phase == "search" else None,
        )
        for arm, (search, verdict) in seconds.items()
        for phase, each in (("search", search), ("confirm", 0.0), ("verdict", verdict))
    ]  # fmt: skip


def test_a_report_says_what_each_arm_cost_and_that_the_times_differ():
    spent = took({"anon": (300.0, 77.4), "sgd": (100.0, 18.6)}, {"anon": 8.0, "sgd": 7.0})
    shown = text(report(job(result=stored(("anon", "sgd"), spent=spent))), 250)
    rows = [line.split() for line in shown.splitlines()]
    assert ["cost", "of", "arm", "epochs", "steps", "samples", "seconds"] in [row[:7] for row in rows]
    assert ["anon", "18", "180", "-", "377", "300", "0", "77"] in rows
    assert ["sgd", "18", "180", "-", "119", "100", "0", "19"] in rows
    said = "The arms did not train for the same time: anon 377 s, 3.2 times as long as sgd (119 s)."
    assert said in shown
    assert "A trial of" not in shown
    in_steps = [each.model_copy(update={"epochs": None}) for each in spent]
    shown = text(report(job(result=stored(("anon", "sgd"), spent=in_steps))), 250)
    rows = [line.split() for line in shown.splitlines()]
    assert ["cost", "of", "arm", "steps", "samples", "seconds"] in [row[:6] for row in rows]
    assert ["anon", "180", "-", "377", "300", "0", "77"] in rows


@pytest.mark.parametrize(
    ("seconds", "typical", "said"),
    [
        ({"anon": 19.0, "sgd": 10.0}, {"anon": 0.9, "sgd": 0.2}, []),
        ({"anon": 9.0, "sgd": 1.0}, {"anon": 0.9, "sgd": 0.1}, []),
        (
            {"anon": 9.0, "sgd": 2.0},
            {"anon": 3.0, "sgd": 1.0},
            ["A trial of anon took 3.0 times as long as one of sgd (3 s and 1 s)."],
        ),
        (
            {"anon": 50.0, "sgd": 0.0},
            {"anon": 3.0, "sgd": None},
            ["The arms did not train for the same time: anon 50 s; sgd (0 s)."],
        ),
        ({"anon": 50.0}, {"anon": 3.0}, []),
    ],
)
def test_only_a_difference_in_time_that_counts_has_a_sentence(seconds: Any, typical: Any, said: list[str]):
    spent = took({arm: (each, 0.0) for arm, each in seconds.items()}, typical)
    assert list(about_cost(answer(tuple(seconds), spent=spent))) == said


@pytest.mark.parametrize(
    ("tested", "column"),
    [(True, "test loss, fresh seeds"), (False, "validation loss, fresh seeds")],
)
def test_a_column_of_validation_data_is_not_called_a_test(tested: bool, column: str):
    shown = text(report(job(result=stored(tested=tested))), 250)
    assert column in shown
    assert ("No test_loss was reported: " in shown) is not tested
    assert ("test loss" in shown) is tested


@pytest.mark.parametrize(
    ("of", "said"),
    [("last", "its last report"), ("best", "its best report"), ("last 3", "the mean of its last 3 reports")],
)
def test_a_report_says_which_reports_counted(of: str, said: str):
    found = job(result=stored())
    objective = {**found.spec["objective"], "of": of}
    view = found.model_copy(update={"spec": {**found.spec, "objective": objective}})
    assert f"The loss of a trial is that of {said}." in " ".join(text(report(view), 250).split())


@pytest.mark.parametrize(
    ("outcome", "of", "said"),
    [
        (Outcome.BETTER, "configuration", "These settings of Anon beat these of sgd: test loss 3% lower"),
        (Outcome.WORSE, "configuration", "These settings of Anon are worse than these of sgd: "),
        (
            Outcome.EQUAL,
            "configuration",
            "These settings of Anon and these of sgd are practically equal (they differ by less than 1%): ",
        ),
        (
            Outcome.BETTER,
            "optimizer",
            "Anon would beat sgd if each were tuned anew with 4 trials: -9% to +4%",
        ),
        (Outcome.EQUAL, "optimizer", "Anon and sgd would be practically equal if each were tuned anew"),
    ],
)
def test_each_outcome_has_its_sentence(outcome: Outcome, of: str, said: str):
    shown = text(report(job(result=stored(verdict=[compared(outcome=outcome, of=of)]))), 250)
    assert said in shown
    assert "There is no evidence" not in shown


def test_without_enough_evidence_that_is_said_with_what_would_help():
    gamma = GAMMA.model_copy(update={"enough": False, "low": -0.4, "high": 1.4})
    shown = text(report(job(result=stored(gamma=gamma))), 250)
    assert "too few trials to locate the best gamma: it is between -0.40 and 1.40" in shown
    assert (
        "Narrow gamma down: anon-tune extend j --trials 20 (20 in total, including those already made)."
        in shown
    )


def test_an_answer_from_before_an_extension_names_the_trials_that_it_had():
    verdict = [compared(of="optimizer", low=-0.1, high=0.2)]
    shown = text(report(job(JobState.QUEUED, result=stored(trials=3, verdict=verdict))), 250)
    assert "compared: anon and sgd, each tuned with 3 trials" in shown
    assert "if each were tuned anew with 3 trials" in shown


@pytest.mark.parametrize("searches", [1, 2])
def test_settings_that_are_told_apart_by_one_search_of_each_ask_for_more_searches(searches: int):
    verdict = [compared(outcome=Outcome.BETTER), compared(of="optimizer", searches=searches)]
    shown = text(report(job(result=stored(verdict=verdict), repeats=searches)), 250)
    said = "Compare the optimizers Anon and sgd: run the job with search.repeats: 5, which takes 5 times the trials."
    assert (said in shown) is (searches == 1)


def test_where_seeds_are_quiet_the_flat_gammas_come_first():
    gamma = GAMMA.model_copy(update={"deviation": 0.015, "flat": [(0.4, 0.6), (0.9, 0.9)]})
    assert (
        "gamma 0.40 to 0.60 and 0.90 costs less than 1% more than the best gamma, more likely than not"
        in text(report(job(result=stored(gamma=gamma))), 250)
    )


@pytest.mark.parametrize("reasons", [[], ["budget.time ends the search by the clock", "a second one"]])
def test_a_job_that_may_not_repeat_says_why(reasons: list[str]):
    shown = text(report(job(result=stored(may_differ=reasons))), 200)
    said = "Another run of this job may find something else: budget.time ends the search by the clock; a second one."
    assert (said in shown) is bool(reasons)
    assert ("Another run" in shown) is bool(reasons)


@pytest.mark.parametrize(
    ("scale", "metric", "said"),
    [
        ("log", "loss", "lower the loss by 1%."),
        ("log_error", "accuracy", "lower the error (1 - accuracy) by 1%."),
        ("linear", "score", "improve score by 0.01."),
    ],
)
def test_a_search_that_ended_early_says_so(scale: str, metric: str, said: str):
    early = [Stopped(arm="anon", trials=14, planned=20)]
    found = answer(scale=scale, stopped=early)
    start = "The search of anon ended after 14 of 20 trials: more were not expected to "
    assert list(about_stopping(found, metric)) == [start + said]
    shown = text(report(job(result=stored(stopped=[each.model_dump() for each in early]))), 200)
    assert f"{start}lower the loss by 1%." in shown
    assert "tuned with up to 4 trials" in shown
    assert "ended after" not in text(report(job(result=stored())), 200)


def test_a_running_job_has_a_line_for_how_far_it_is_and_one_for_each_arm():
    lines = text(live_view(view(), 61.0, view()), 140).splitlines()
    assert lines[0].startswith("x j   phase search   7 of ")
    assert set(lines[1].strip()) <= {"━", "╸"}
    assert [line.split()[0] for line in lines[2:]] == ["arm", "anon", "sgd"]
    assert lines[0].endswith("1:01 gone, estimating time left")
    assert [line.split()[-4:-3] for line in lines[3:]] == [["30"], ["0"]]  # epochs


@pytest.mark.parametrize(
    ("trials", "epochs", "said"),
    [
        (0, 0, "estimating time left"),
        (0, 3, "about 20:00 left"),  # 20 s for each of 7 * 9 - 3 epochs
        (3, 27, "about 01:20 left"),  # 20 s for each of 4 trials
    ],
)
def test_the_time_left_is_estimated_from_the_first_epoch_on(trials: int, epochs: int, said: str):
    """The job has one arm, 3 search, 2 confirm and 2 verdict trials, and 9 epochs in each."""
    keys = {
        "arms": ["anon"],
        "budget": {"trials": 3, "epochs": 9},
        "confirm": {"finalists": 1, "seeds": 2, "verdict_seeds": 2},
    }
    spec = builders.spec(**keys).model_dump(mode="json")

    def seen(done: int, reported: int) -> JobView:
        record = JobRecord("j", "x", JobState.RUNNING, Phase.SEARCH, spec, builders.EPOCH)
        arm = ArmRecord({TrialState.COMPLETE: done, TrialState.RUNNING: 1}, {}, None, reported, 0.0)
        return job_view(Overview(record, {"anon": arm}, 0))

    shown = text(live_view(seen(trials, epochs), 60.0, seen(0, 0)), 140)
    assert shown.splitlines()[0].endswith(f"gone, {said}")


@pytest.mark.parametrize("state", [JobState.PAUSED, JobState.FAILED])
def test_the_last_view_of_a_job_has_its_state_and_the_reason(state: JobState):
    stopped = job(state, reason="three trials in a row failed: ZeroDivisionError")
    lines = text(live_view(stopped, 61.0, stopped), 140).splitlines()
    assert lines[0].endswith(f"{state} after 01:01")
    assert lines[1].strip() == "three trials in a row failed: ZeroDivisionError"


@pytest.mark.parametrize(
    ("state", "alive", "resumes"),
    [
        (JobState.QUEUED, None, True),
        (JobState.PAUSED, None, True),
        (JobState.RUNNING, True, False),
        (JobState.RUNNING, False, True),
        (JobState.FAILED, None, False),
    ],
)
def test_a_job_without_a_result_says_why_and_how_to_go_on(state: JobState, alive: bool | None, resumes: bool):
    lease = None if alive is None else LeaseRecord("me", 1, builders.EPOCH, builders.EPOCH, alive)
    shown = text(report(job(state, reason="the disk is full", lease=lease)))
    assert f"a job (j): {state} in its verdict phase" in shown
    assert "the disk is full" in shown
    assert ("Continue with: anon-tune run --resume j" in shown) is resumes
    assert ("no process is running this job" in shown) is (alive is False)
    assert ("run the job file again" in shown) is (state is JobState.FAILED)


def on_gpu(probe: dict[str, Any]) -> str:
    return text(report(job(JobState.RUNNING, gpu=0.5, probe=probe)))


def test_gpu_memory_per_trial_is_reported():
    probe = {"device": "H100", "peak_memory_bytes": 3 * 2**29, "device_memory_bytes": 80 * 2**30}
    said = on_gpu({**probe, "trials_per_device": 7})
    assert "H100: a trial takes 1.5 of its 80 GiB; 7 trials fit on it (resources.gpu: 0.142)" in said
    assert "fit on it" not in on_gpu({**probe, "trials_per_device": 1})
    assert "trained on CPU: torch found no CUDA device there, though resources.gpu is 0.5" in on_gpu(
        {"device": "cpu"}
    )


@pytest.mark.parametrize("state", [JobState.RUNNING, JobState.SUCCEEDED])
def test_what_the_check_up_has_noticed_is_shown_while_the_job_runs_and_after(state: JobState):
    seen = job(state, probe={"notes": ["no optimizer trains head.weight"]})
    assert "  Note: no optimizer trains head.weight.\n" in text(report(seen))
    assert "  Note: no optimizer trains head.weight.\n" in text(live_view(seen, 1.0, seen))
    assert "Note:" not in text(report(job(state, probe={"log_mean_sigma": -9.0})))


def test_a_job_has_one_gamma_wherever_it_is_shown():
    found = job(result=stored())
    assert "recommended gamma 0.50" in text(report(found))
    assert "mlp    0.5 " in text(jobs_table([found])).splitlines()[1]


def test_the_answer_of_an_earlier_version_is_shown_with_what_still_holds():
    first = {
        "confirm": {"planned": 9, "made": 9},
        "tested": True,
        "gamma": {
            "mean": 1.1, "low": 0.2, "high": 1.5, "best": 0.2, "within": 4, "complete": 12, "standard_error": 0.1,
            "note": "a note",
        },
        "winners": {
            "anon": {
                "trial": "j-anon-s001", "params": {"gamma": 0.2}, "hyperparameters": {"gamma": 0.2, "lr": 0.1},
                "finalists": ["j-anon-s001"], "confirm": {"mean": 0.3, "seeds": {"1": 0.3}, "metrics": {}},
                "test": {"mean": 0.4, "seeds": {"2": 0.4}, "metrics": {}},
            }
        },
        "verdict": [
            {
                "baseline": "sgd", "outcome": "no difference", "anon": 0.4, "other": 0.5, "difference": -0.1,
                "low": -0.3, "high": 0.1, "seeds": 5, "note": "",
            }
        ],
    }  # fmt: skip
    shown = text(report(job(result=first)), 200)
    assert "recommended gamma 0.20 (made by an earlier version, which estimated no interval)" in shown
    assert ["sgd", "these", "settings", "undecided", "-", "-", "5"] in [
        line.split() for line in shown.splitlines()
    ]


@pytest.mark.parametrize("width", [50, 70])
def test_a_narrow_terminal_cuts_nothing_off_and_leaves_ids_whole(width: int):
    trial = trial_view(builders.trial(0, TrialState.FAILED, reason="no_data_" * 20))
    named = job().model_copy(update={"id": "a-long-id"})
    for table, found in ((jobs_table([named]), named.id), (trials_table([trial]), trial.id)):
        lines = text(table, width).splitlines()
        assert any(line.startswith(f"{found} ") for line in lines)
        assert not any("…" in line for line in lines)


@pytest.mark.parametrize(
    "reason",
    [
        "RuntimeError: [enforce fail at alloc_cpu.cpp:121] err == 0",
        "FileNotFoundError: no [/tmp/x]",
        "KeyError: ':x:' [red]",
    ],
)
def test_a_message_that_looks_like_markup_is_shown_as_it_is(reason: str):
    failed = builders.trial(0, TrialState.FAILED, reason=reason)
    assert reason in text(trials_table([trial_view(failed)]), 160)
    assert reason in text(report(job(JobState.PAUSED, reason=reason)))


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
    assert shown.count("tried first") == sum(map(len, space.start.values()))


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


def test_a_space_of_a_factory_is_shown_with_its_own_names():
    document = {
        "optimizer": "mine:make",
        "summary": "x",
        "parameters": {"lr": {"low": 0.1, "high": 1}},
        "fixed": {"momentum": 0.9},
    }
    lines = text(space_view("x", Space.model_validate(document))).splitlines()
    assert "optimizer mine:make; infinitely many configurations" in lines[1]
    assert [line.split() for line in lines[2:]] == [["lr", "0.1", "to", "1"], ["momentum", "0.9", "(fixed)"]]


def test_a_difference_too_large_to_mean_much_is_not_spelled_out():
    shown = answers.answer(scale="log")
    assert [signed(each, shown) for each in (0.031, -0.091, 9.9, 227293257.0)] == [
        "+3.1%", "-9.1%", "+990%", "over +1,000%"
    ]  # fmt: skip
    assert amount(46174347.94, shown) == "over 1,000%"
    assert signed(46174347.0, answers.answer(scale="linear")) == "+4.62e+07"


def test_what_to_do_next_after_a_job_with_a_command_is_about_the_script():
    spec = parse_spec(
        {
            "name": "x",
            "command": "python train.py --width 8",
            "budget": {"trials": 2, "epochs": 3},
            "folder": "/x",
        }
    )
    first, *others = next_steps(answer(tested=False, verdict=(compared(),)), spec, "j")
    assert first.endswith("then ANON_TUNE_CONFIG=best.yaml python train.py --width 8.")
    assert any("call trial.test(loss=...) in the script" in each for each in others)
    filled = spec.model_copy(update={"command": "python train.py --epochs {epochs}"})
    assert "anon_tune.load_optimizer(" in next(next_steps(answer(), filled, "j"))
