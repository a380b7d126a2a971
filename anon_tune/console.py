"""Tables and reports for a terminal (Rich)."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from anon_tune.answer import Answer, Outcome, Winner
from anon_tune.next_steps import next_steps
from anon_tune.records import ENDED, JobState, TrialState, WorkerKind
from anon_tune.sentences import (
    EXPLAINED,
    about_compared,
    about_comparison,
    about_coordinates,
    about_cost,
    about_gamma,
    about_result,
    about_runs,
    about_searches,
    about_settings,
    about_stopping,
    about_training,
    about_untested,
    about_value,
    about_verdicts,
    cost_table,
    in_words,
    short,
    signed,
)
from anon_tune.terminal_plot import ResponsePlot, has_response
from anon_tune.views import (
    ArmView,
    AttemptView,
    AuditView,
    JobSummary,
    JobView,
    TokenView,
    TrialView,
    WorkerView,
)
from anon_tune.waiting import about_gpus

if TYPE_CHECKING:
    from anon_tune.search_spaces import Space
    from anon_tune.spec import JobSpec

__all__ = [
    "attempts_view",
    "audit_table",
    "best_table",
    "finding_line",
    "jobs_table",
    "live_view",
    "notes_view",
    "number",
    "report",
    "response_view",
    "space_view",
    "spaces_view",
    "tokens_table",
    "trials_table",
    "workers_table",
]

_HEALTH_STYLES = {"ok": "green", "warning": "yellow", "failed": "red"}
_LOWEST, _HIGHEST = 6, 12
"""Lines of a plot below the live table."""
_AROUND = 11
"""Lines of the live view besides those of arms and notes: head, bar, titles; title, axes and legend of the plot."""
_FEWEST = 4
"""Trials with a value from which on the live view plots them."""
_OUTCOME_STYLES = {
    Outcome.BETTER: "green",
    Outcome.WORSE: "red",
    Outcome.EQUAL: "cyan",
    Outcome.UNDECIDED: "yellow",
}


def number(value: float | None, digits: int = 4) -> str:
    """Return a number to `digits` significant digits, or a dash for None."""
    return "-" if value is None else f"{value:.{digits}g}"


def live_view(
    job: JobView, elapsed: float, first: JobView, trials: Sequence[TrialView] = (), rows: int = 0
) -> RenderableType:
    """Return the view of a running job: phase, trials by state per arm, best so far, estimated time left.

    Of a job that has ended or is PAUSED it shows the state and the reason. Below is a plot of the response, if some
    trials have a value and there is space for it.

    Args:
        job: The job as it is now.
        elapsed: Seconds since the view was opened.
        first: The job as it was then.
        trials: Its trials.
        rows: Lines of the terminal.
    """
    done, total = job.done, job.planned
    time = f"{_duration(elapsed)} gone, {_time_left(job, elapsed, first)}"
    head = Text.assemble(
        (f"{job.name} ", "bold"), f"{job.id}   phase ", (job.phase.value, "cyan"),
        f"   {done} of {total} trials   {f'{job.state} after {_duration(elapsed)}' if job.is_at_rest else time}",
    )  # fmt: skip
    reason = [Text(f"  {job.reason}")] if job.is_at_rest and job.reason else []
    if job.waiting is not None:
        reason = [Text(f"  waiting: {job.waiting}")]
    table = Table(box=None, pad_edge=False)
    for title in ("arm", "search", "reruns", f"{job.unit}s", "best so far", "gamma", "trial"):
        table.add_column(title, no_wrap=True)
    for arm, seen in job.arms.items():
        best = seen.best
        _add_row(
            table,
            arm,
            f"{sum(seen.trials.values())}/{seen.planned}  {_states(seen.trials)}",
            _states(seen.reruns),
            f"{seen.trained:,}",
            number(best.value) if best else "-",
            number(best.params.get("gamma"), 3) if best else "-",
            best.trial if best else "-",
        )
    bar = Padding(ProgressBar(total=max(1, total), completed=done, width=60), 0)  # which ends the line
    notes = list(notes_view(job))
    height = min(_HIGHEST, rows - len(reason) - len(job.arms) - len(notes) - _AROUND)
    plot: list[RenderableType] = []
    if height >= _LOWEST and has_response(trials, _FEWEST):
        plot = [Text(), ResponsePlot(job, trials, height)]
    return Group(head, *reason, bar, table, *notes, *plot)


def _time_left(job: JobView, elapsed: float, first: JobView) -> str:
    """Return the estimated time left: from the trials that have ended since `first`, else from their reports."""
    trials, trained = job.done - first.done, job.trained - first.trained
    left = max(0, job.planned - job.done)
    if trials > 0:
        return f"about {_duration(elapsed / trials * left)} left"
    if trained > 0:
        rest = left * job.spec["budget"][f"{job.unit}s"] - trained
        return f"about {_duration(elapsed / trained * max(0, rest))} left"
    return "estimating time left"


def notes_view(job: JobView) -> Iterator[Text]:
    """Yield what the check-up has noticed in the user's code."""
    for note in job.probe.notes if job.probe is not None else ():
        yield Text(f"  Note: {note}.", style="yellow")


def report(job: JobView, where: str | None = None, look: str | None = None) -> RenderableType:
    """Return a job's answer; without one, the reason and how to continue.

    Args:
        job: The job.
        where: Path of its best configuration, or the command that exports it.
        look: Command that shows it in MLflow.
    """
    phase = f" in its {job.phase} phase" if job.result is None else ""
    lines: list[RenderableType] = [Text(f"{job.name} ({job.id}): {job.state}{phase}", style="bold")]
    if job.reason:
        lines.append(Text(f"  {job.reason}"))
    if job.architecture:
        lines.append(
            Text(f"  {job.model}: {job.architecture.family}, {job.architecture.parameters:,} parameters")
        )
    lines += [*(Text(f"  {line}") for line in _device_lines(job)), *notes_view(job)]
    if job.requested is not None:
        lines.append(Text(f"  {job.requested} requested; the worker will act on it within seconds"))
    if job.is_abandoned:
        lines.append(Text("  no process is running this job; the last one has exited"))
    if job.waiting is not None:
        lines.append(Text(f"  waiting: {job.waiting}"))
    if job.state in {JobState.QUEUED, JobState.PAUSED} or job.is_abandoned:
        line = f"  Continue with: anon-tune run --resume {job.id}"
        if job.state is JobState.PAUSED:
            line += f", or queue it for a worker: anon-tune resume {job.id}"
        lines.append(Text(line))
    if job.result is None:
        if job.state is JobState.FAILED:
            lines.append(Text("  Fix the cause, then run the job file again: anon-tune run SPEC"))
        return Group(*lines)
    if job.state not in ENDED:
        lines.append(Text("  Results from before its budget was raised:"))
    lines += _found(job, job.result)
    if where:
        lines.append(Text(f"Best Anon config: {where}", no_wrap=True))
    if look:
        lines.append(Text(f"Look at it:       {look}", no_wrap=True))
    return Group(*lines)


def _found(job: JobView, answer: Answer) -> Iterator[RenderableType]:
    """Yield the parts of a job's answer, the most important first."""
    from anon_tune.spec import stored_spec  # takes a tenth of a second, which every command would wait for

    spec = stored_spec(job.spec)
    for line in about_result(answer):
        yield Text(f"  {line}", style="bold")
    yield Text(f"  compared: {about_comparison(answer, spec)}")
    for line in (*about_gamma(answer), *about_coordinates(answer)):
        yield Text(f"  {line}")
    yield from _winner_lines(answer.winners.get("anon"))
    for arm, winner in answer.winners.items():
        if arm != "anon":
            yield Text(f"  {arm}: {about_settings(winner.hyperparameters)}")
    for line in about_searches(answer, spec):
        yield Text(f"  {line}")
    yield from (Text(), _arms_table(job, answer, spec), Text())
    if answer.spent:
        yield from (_costs_table(answer), Text())
    if answer.verdict:
        yield from (_verdict_table(answer), Text())
    yield from map(Text, about_stopping(answer, spec.objective.metric))
    if saved := answer.confirm.planned - answer.confirm.made:
        planned = answer.confirm.planned
        yield Text(
            f"{saved} of {planned} confirm runs were left out, because their finalists had fallen behind."
        )
    yield from map(Text, about_verdicts(answer, spec))
    yield Text(f"The {spec.objective.metric} of a trial is that of {about_value(spec.objective.of)}.")
    if not answer.tested:
        yield Text(about_untested(spec.objective.metric))
    yield from map(Text, about_cost(answer))
    yield Text(about_training(spec))
    if answer.may_differ:
        yield Text(f"Another run of this job may find something else: {'; '.join(answer.may_differ)}.")
    if job.state not in ENDED:
        return
    yield Text("What to do next:", style="bold")
    for step in next_steps(answer, spec, job.id):
        yield Text(f"  - {step}")


def response_view(job: JobView, trials: Sequence[TrialView]) -> RenderableType:
    """Return the plot of a job's response; a sentence if there is nothing to plot yet."""
    if has_response(trials):
        return ResponsePlot(job, trials)
    return Text(
        "No plot: it needs two search trials of anon with a value and different gammas. "
        f"Look at the trials: anon-tune trials {job.id}"
    )


def jobs_table(jobs: Sequence[JobSummary]) -> Table:
    """Return a table of jobs, one line each."""
    titles = ["job", "name", "state", "phase", "model", "gamma", "created"]
    owned = any(job.owner for job in jobs)
    table = _table(*titles, *(["owner"] if owned else []))
    for job in jobs:
        state = job.state.value
        if job.is_abandoned:
            state = "RUNNING (no process is running it: run --resume)"
        elif job.requested is not None:
            state = f"{state} ({job.requested} requested)"
        _add_row(
            table,
            job.id,
            job.name,
            state,
            job.phase.value,
            job.model,
            number(job.gamma.best if job.gamma else None, 3),
            _local_time(job.created),
            *([job.owner or "-"] if owned else []),
        )
    return table


def trials_table(trials: Sequence[TrialView]) -> Table:
    """Return a table of trials, one line each."""
    table = _table("trial", "phase", "state", "value", "done", "hyperparameters", "reason")
    for trial in trials:
        arguments = "  ".join(f"{key} {short(value)}" for key, value in trial.hyperparameters.items())
        _add_row(
            table, trial.id, trial.phase.value, trial.state.value, number(trial.value), str(trial.steps),
            arguments, trial.reason or "",
        )  # fmt: skip
    return table


def attempts_view(attempts: Sequence[AttemptView]) -> RenderableType:
    """Return attempts with their outcomes and the last lines of their processes' output."""
    lines: list[RenderableType] = []
    for attempt in attempts:
        outcome = attempt.outcome or "RUNNING"
        if attempt.outcome is not None and attempt.reason:
            outcome += f": {attempt.reason}"
        lines.append(Text.assemble((f"{attempt.trial}, attempt {attempt.number}", "bold"), f"  {outcome}"))
        if attempt.log:
            lines += [Text(f"  | {line}") for line in attempt.log.splitlines()]
    return Group(*lines)


def best_table(arms: Mapping[str, ArmView]) -> Table:
    """Return a table of the best search trial of each arm so far."""
    table = _table("arm", "best", "trial", "coordinates")
    for arm, seen in arms.items():
        best = seen.best
        coordinates = (
            "  ".join(f"{key} {short(value)}" for key, value in best.params.items()) if best else "-"
        )
        _add_row(table, arm, number(best.value) if best else "-", best.trial if best else "-", coordinates)
    return table


def workers_table(workers: Sequence[WorkerView]) -> Table:
    """Return a table of workers, one line each."""
    table = _table("worker", "state", "jobs", "CPUs", "GPUs", "versions", "started", "last seen")
    for worker in workers:
        _add_row(
            table,
            worker.holder,
            f"{worker.state} ({worker.kind})" if worker.kind is WorkerKind.RUN else worker.state.value,
            f"{len(worker.jobs)}/{worker.at_once}  {' '.join(worker.jobs)}".rstrip(),
            str(worker.cpus),
            about_gpus(worker.gpus),
            "  ".join(f"{name} {number}" for name, number in worker.versions.items()),
            _local_time(worker.started),
            _local_time(worker.heartbeat),
        )
    return table


def tokens_table(tokens: Sequence[TokenView]) -> Table:
    """Return a table of tokens, one line each."""
    table = _table("token", "owner", "role", "created", "state")
    for token in tokens:
        created = _local_time(token.created)
        _add_row(table, token.id, token.owner, token.role.value, created, _state_of(token))
    return table


def _state_of(token: TokenView) -> str:
    if token.revoked is not None:
        return f"revoked {_local_time(token.revoked)}"
    if token.expires is None:
        return "valid"
    return f"{'expired' if token.is_expired else 'valid until'} {_local_time(token.expires)}"


def audit_table(entries: Sequence[AuditView]) -> Table:
    """Return a table of what users did, one line each."""
    table = _table("time", "owner", "token", "from", "action", "job", "note")
    for entry in entries:
        note = " ".join(filter(None, (entry.subject, entry.note)))
        who = entry.owner or "-", entry.token, entry.channel.value
        _add_row(table, _local_time(entry.time), *who, entry.action.value, entry.job or "-", note)
    return table


def finding_line(what: str, health: str, found: str, advice: str) -> Text:
    """Return one finding, with its advice on the next line."""
    line = Text.assemble(f"{what:10}", (f"{health:9}", _HEALTH_STYLES[health]), found)
    return line.append(f"\n{'':19}{advice}") if advice else line


def spaces_view(spaces: Mapping[str, Space]) -> RenderableType:
    """Return the searched and fixed arguments of each space, one line each."""
    lines: list[RenderableType] = []
    for name, space in spaces.items():
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        for width in (18, 28):
            table.add_column(min_width=width, no_wrap=True)
        table.add_column()
        for coordinate, domain in space.parameters.items():
            _add_row(
                table, f"  {coordinate}", domain.text, f"where {domain.condition}" if domain.when else ""
            )
        for argument in space.fixed:
            _add_row(table, f"  {argument}", short(space.constant(argument)), "fixed")
        lines += [Text.assemble((f"{name:13}", "bold"), space.summary), table]
    return Group(*lines, Text("One in full: anon-tune spaces SPACE", style="dim"))


def space_view(name: str, space: Space) -> RenderableType:
    """Return one space in full: searched and fixed arguments, each with its meaning."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for argument, meaning in space.meanings.items():
        domain = space.parameters.get(argument)
        if domain is not None:
            values, where = domain.text, f"; only where {domain.condition}" if domain.when else ""
        elif space.is_constant(argument):
            how = "fixed" if argument in space.fixed else "default"
            values, where = f"{short(space.constant(argument))} ({how})", ""
        else:
            continue
        _add_row(table, f"  {argument}", values, meaning + where)
    count = "infinitely many" if math.isinf(space.configurations) else f"{space.configurations:g}"
    return Group(
        Text.assemble((name, "bold"), f"  {space.summary}"),
        Text(f"  optimizer {space.optimizer}; {count} configurations"),
        table,
        *_start_lines(space),
    )


def _start_lines(space: Space) -> Iterator[Text]:
    """Yield the points that are tried first, by architecture family if they differ."""
    for family, points in space.start.items():
        where = "" if len(space.start) == 1 else f" ({family})"
        for point in points:
            values = "  ".join(f"{name} {short(value)}" for name, value in point.items())
            yield Text(f"  tried first{where}: {values}")


def _table(*titles: str) -> Table:
    """Return a table that wraps in a narrow terminal, except its first column, which is there to copy from."""
    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold", no_wrap=title == titles[0])
    return table


def _add_row(table: Table, *cells: str | Text) -> None:
    """Add cells as plain text: a reason or a path may look like Rich's markup."""
    table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in cells))


def _device_lines(job: JobView) -> list[str]:
    """Return the probe's findings about the GPU, if the job asks for one."""
    gpu, probe = job.spec["resources"]["gpu"], job.probe
    if probe is None:
        return []
    if gpu and probe.device == "cpu":
        return [f"trained on CPU: torch found no CUDA device there, though resources.gpu is {gpu:g}"]
    peak, total, fit = probe.peak_memory_bytes, probe.device_memory_bytes, probe.trials_per_device
    if peak is None or total is None or fit is None:
        return []
    share = math.floor(1000 / fit) / 1000 if fit else 1
    more = f"; {fit} trials fit on it (resources.gpu: {share:g})" if fit > 1 else ""
    return [f"{probe.device}: a trial takes {peak / 2**30:.2g} of its {total / 2**30:.3g} GiB{more}"]


def _winner_lines(winner: Winner | None) -> list[Text]:
    if winner is None:
        return []
    lines = [Text(f"  recommended: {about_settings(winner.hyperparameters)}")]
    if winner.at_bound:
        lines.append(Text(f"  at the end of the range: {in_words(winner.at_bound)}"))
    return lines + [Text(f"    {name}: {meaning}", style="dim") for name, meaning in EXPLAINED.items()]


def _arms_table(job: JobView, answer: Answer, spec: JobSpec) -> Table:
    metric, tested = spec.objective.metric, "test" if answer.tested else "validation"
    table = Table(title=None, box=None, pad_edge=False)
    for title in (
        "arm",
        "trials",
        f"validation {metric} when chosen",
        f"{tested} {metric}, {about_runs(spec)}",
    ):
        table.add_column(title, no_wrap=True)
    for arm, seen in job.arms.items():
        found = answer.winners.get(arm)
        _add_row(
            table, arm, _states(seen.trials),
            number(found.confirm.mean) if found else "-", number(found.test.mean) if found else "-",
        )  # fmt: skip
    return table


def _costs_table(answer: Answer) -> Table:
    table = Table(box=None, pad_edge=False)
    titles, *rows = cost_table(answer)
    for title in (*titles, "in search", "in confirm", "in verdict"):
        table.add_column(title, no_wrap=True)
    for arm, *counts in rows:
        phases = (each.seconds for each in answer.spent if each.arm == arm)
        _add_row(table, arm, *counts, *(f"{seconds:.0f}" for seconds in phases))
    return table


def _verdict_table(answer: Answer) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("Anon against", "compared", "verdict", "difference", "95% interval", "seeds"):
        table.add_column(title, no_wrap=True)
    for item in answer.verdict:
        difference = "-" if item.difference is None else signed(item.difference, answer)
        between = "-"
        if item.low is not None and item.high is not None:
            between = f"{signed(item.low, answer)} to {signed(item.high, answer)}"
        compared = about_compared(item)
        outcome = Text(item.outcome, style=_OUTCOME_STYLES[item.outcome])
        _add_row(table, item.baseline, compared, outcome, difference, between, str(item.seeds))
    return table


def _states(counts: Mapping[TrialState, int]) -> str:
    return " ".join(f"{count} {state}" for state, count in counts.items()) or "-"


def _local_time(moment: datetime.datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds))).removeprefix("0:")
