"""A job's answer in Markdown, for the description of its run in MLflow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from anon_tune.answer import Answer
from anon_tune.next_steps import next_steps
from anon_tune.records import ENDED, JobRecord
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


def description(job: JobRecord) -> str:
    """Return the comparison, findings, uncertainty and next steps of a job, or that it has no answer yet."""
    answer = job.answer
    spec = stored_spec(job.spec)
    lines = [f"**{_plain(job.name)}** ({job.id}): {job.state.value}"]
    if job.reason:
        lines += ["", _plain(job.reason)]
    if answer is None:
        lines += ["", f"It has no answer yet. `anon-tune show {job.id}` shows its progress."]
    else:
        lines += _found(job, answer, spec)
    return "\n".join(lines) + "\n"


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
