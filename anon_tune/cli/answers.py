"""Commands for results: best configurations, and a gamma for an architecture."""

from __future__ import annotations

import contextlib
import pickle
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anon_tune import catalogue, console
from anon_tune.advice.statement import Fingerprint
from anon_tune.architecture import fingerprint
from anon_tune.cli.options import AsJson, JobId, Overrides
from anon_tune.cli.place import chosen, open_jobs
from anon_tune.cli.printing import err, out, print_json
from anon_tune.errors import InputError
from anon_tune.export import FORMATS, form_of
from anon_tune.jobs.files import complete_or_absent
from anon_tune.sentences import about_advice

if TYPE_CHECKING:
    from anon_tune.spec import JobSpec
    from anon_tune.workers.trial.messages import Failed, ProbeAssignment, ProbeResult

__all__ = ["best", "export", "report", "suggest"]


def best(job_id: JobId, as_json: AsJson = False) -> None:
    """Show the best trial of each arm so far."""
    job = open_jobs().job(job_id)
    if as_json:
        print_json({arm: seen.best and seen.best.model_dump(mode="json") for arm, seen in job.arms.items()})
    else:
        out.print(console.best_table(job.arms))


def export(
    job_id: JobId,
    form: Annotated[
        str | None,
        typer.Option("--format", help=f"{', '.join(FORMATS)}. Default: by the file name, else yaml."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Output file. Default and '-': standard output.")
    ] = None,
    arm: Annotated[str, typer.Option(help="The arm whose winner to export.")] = "anon",
) -> None:
    """Export a job's best configuration with its evidence."""
    if output == Path("-"):
        output = None
    text = open_jobs().export(job_id, form or form_of(output or Path()), arm)
    if output is None:
        sys.stdout.write(text)
    else:
        _write(output, text)


def report(
    job_id: JobId,
    output: Annotated[Path, typer.Option("-o", "--output", help="The HTML file to write.")],
) -> None:
    """Write a job as one HTML file to send or keep: its answer, pictures, tables and settings."""
    _write(output, open_jobs().report(job_id))


def _write(output: Path, text: str) -> None:
    with complete_or_absent(output) as made:
        made.write_text(text, encoding="utf-8")
    err.print(f"Wrote {output}", soft_wrap=True)


def suggest(
    spec: Annotated[
        Path | None, typer.Argument(help="A job file (YAML); its model is measured on its data.")
    ] = None,
    family: Annotated[str | None, typer.Option(help=f"One of {', '.join(catalogue.FAMILIES)}.")] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODULE:FUNCTION", help="A function in this folder that returns your model."),
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Suggest a gamma for a model, from finished jobs, shipped searches and published guidance."""
    if sum(given is not None for given in (spec, family, model)) != 1:
        raise InputError(
            "Give exactly one of a job file, --model and --family. For example: anon-tune suggest --family cnn"
        )
    if overrides and spec is None:
        raise InputError("--set needs a job file.")
    scale = None
    if family is not None:
        architecture = Fingerprint(family=family)
    elif model is not None:
        architecture = _architecture(model)
    else:
        architecture, scale = _measured(Path(str(spec)), overrides or ())
    advice = open_jobs().advice(architecture, scale)
    if as_json:
        subject = {"architecture": architecture.model_dump(mode="json"), "log_mean_sigma": scale}
        print_json({**advice.model_dump(mode="json"), **subject})
    else:
        out.print("\n".join(about_advice(advice)), soft_wrap=True, highlight=False)


def _architecture(name: str) -> Fingerprint:
    """Return the fingerprint of the model that a user's function returns."""
    from anon_tune.documents import is_function  # and YAML, which other commands need not wait for

    if not is_function(name):
        raise InputError(
            f"{name!r} is not the name of a function. Give MODULE:FUNCTION, such as nets:make_model"
        )
    from anon_tune.workers.problems.models import build_model

    return Fingerprint.model_validate(fingerprint(build_model(name, (), 0, {}, str(Path.cwd()))))


def _probed(spec: JobSpec, probe: ProbeAssignment) -> ProbeResult | Failed:
    if spec.has_own_training:
        from anon_tune.workers.trial.isolated import CheckUp, UserCode, keeper_for

        with keeper_for(spec) as started:
            return CheckUp(probe, UserCode(started, spec, pickle.dumps({}))).step()
    from anon_tune.workers.trial.attempt import run_probe

    with contextlib.redirect_stdout(sys.stderr):  # keep the output of the user's code out of the answer
        return run_probe(spec, probe.seed, probe.floor)


def _measured(file: Path, overrides: Sequence[str]) -> tuple[Fingerprint, float]:
    """Return the fingerprint and gradient scale of a job's model, measured on this machine as the job would do."""
    from anon_tune.spec import load_spec, spaces_of
    from anon_tune.workers.driver.probe import probe_of
    from anon_tune.workers.trial.messages import Failed

    spec = load_spec(file, overrides, chosen.settings.data)
    with tempfile.TemporaryDirectory(prefix="anon_tune_") as folder:
        probe = probe_of(spec, spaces_of(spec), Path(folder) / "probe.log")
        found = _probed(spec, probe)
    if isinstance(found, Failed):
        raise InputError(f"{file}: the model cannot be trained: {found.reason}")
    return Fingerprint.model_validate(found.architecture), found.log_mean_sigma
