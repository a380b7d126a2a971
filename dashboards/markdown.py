"""A job's progress and answer in Markdown, for the description of its run in MLflow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from anon_tune.answer import Answer
from anon_tune.next_steps import next_steps
from anon_tune.records import ENDED, FINISHED, ArmRecord, JobRecord
from anon_tune.sentences import (
    EXPLAINED,
    about_comparison,
    about_coordinates,
    about_cost,
    about_gamma,
    about_limits,
    about_result,
    about_runs,
    about_searches,
    about_settings,
    about_verdicts,
    cost_table,
)
from anon_tune.spec import JobSpec, stored_spec

__all__ = ["description"]


def description(job: JobRecord, arms: Mapping[str, ArmRecord] | None = None, page: str | None = None) -> str:
    """Return the comparison, findings, uncertainty and next steps of a job; before its answer, its progress.

    Args:
        job: The job.
        arms: Progress of its arms.
        page: Address of its page.
    """
    answer = job.answer
    spec = stored_spec(job.spec)
    lines = [f"**{_plain(job.name)}** ({job.id}): {job.state.value}"]
    if job.reason:
        lines += ["", _plain(job.reason)]
    if page is not None:
        lines += ["", f"[Open the job's page]({page})"]
    if arms and job.state not in ENDED:
        lines += _progress(arms, spec)
    if answer is None:
        lines += ["", f"It has no answer yet. `anon-tune show {job.id}` shows its progress."]
    else:
        lines += _found(job, answer, spec)
    return "\n".join(lines) + "\n"


def _progress(arms: Mapping[str, ArmRecord], spec: JobSpec) -> Iterator[str]:
    yield from (
        "",
        f"| arm | search trials | best validation {spec.objective.metric} | settings |",
        "|---|---|---|---|",
    )
    planned = spec.budget.trials * spec.search.repeats
    for arm, progress in arms.items():
        done = sum(number for state, number in progress.search.items() if state in FINISHED)
        value, shown = "-", "-"
        if progress.best is not None and progress.best.value is not None:
            value = f"{progress.best.value:.4g}"
            shown = about_settings(progress.best.hyperparameters).replace("  ", ", ")
        yield f"| {arm} | {done} of {planned} | {value} | {_plain(shown)} |"


def _found(job: JobRecord, answer: Answer, spec: JobSpec) -> Iterator[str]:
    yield from (line for said in about_result(answer) for line in ("", f"{said}."))
    yield from ("", f"Compared: {about_comparison(answer, spec)}.")
    gamma = [*about_gamma(answer), *about_coordinates(answer), *about_searches(answer, spec)]
    yield from _section("Gamma", gamma)
    verdicts = list(about_verdicts(answer, spec))
    yield from _section("Anon against the others", verdicts)
    yield from _table(answer, spec)
    yield from _section("What it holds for", [*about_limits(answer, spec), *about_cost(answer)])
    if job.state in ENDED:
        yield from _section("What to do next", next_steps(answer, spec, job.id))
    yield from _section("Words", (f"**{name}**: {meaning}" for name, meaning in EXPLAINED.items()))


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    found = [f"- {line}" for line in lines]
    if found:
        yield from ("", f"### {title}", "", *found)


def _table(answer: Answer, spec: JobSpec) -> Iterator[str]:
    split = "test" if answer.tested else "validation"
    yield from (
        "",
        f"| arm | settings | {split} {spec.objective.metric}, mean of {about_runs(spec)} |",
        "|---|---|---|",
    )
    for arm, winner in answer.winners.items():
        shown = about_settings(winner.hyperparameters).replace("  ", ", ")
        mean = "-" if winner.test.mean is None else f"{winner.test.mean:.4g}"
        yield f"| {arm} | {_plain(shown)} | {mean} |"
    if answer.spent:
        titles, *rows = cost_table(answer)
        yield from ("", f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}")
        yield from (f"| {' | '.join(row)} |" for row in rows)


def _plain(text: str) -> str:
    """Return text in one line, escaped for Markdown."""
    escaped = "".join(f"\\{sign}" if sign in "\\`*_[]<>#|" else sign for sign in text)
    return " ".join(escaped.split())
