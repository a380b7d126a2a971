"""Commands for administrators: tokens, the database, and the projection to MLflow."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
import sys
from typing import Annotated

import typer

from anon_tune import console
from anon_tune.cli.options import AsJson, JobId
from anon_tune.cli.place import ledger_jobs, open_jobs, settings_here
from anon_tune.cli.printing import err, out, print_json
from anon_tune.errors import InputError
from anon_tune.reachable import without_password
from anon_tune.records import Role

__all__ = ["audit", "db_app", "mlflow_app", "token_app"]

token_app = typer.Typer(help="Tokens of a service's users.", no_args_is_help=True)
db_app = typer.Typer(help="The ledger's database.", no_args_is_help=True)
mlflow_app = typer.Typer(help="The projection of jobs to MLflow.", no_args_is_help=True)


@token_app.command("create")
def token_create(
    owner: Annotated[
        str,
        typer.Argument(metavar="NAME", help="The user's name; jobs submitted with the token belong to them."),
    ],
    role: Annotated[
        Role, typer.Option(help="Permissions; each role includes the ones before it.")
    ] = Role.SUBMIT,
    stdin: Annotated[bool, typer.Option("--stdin", help="Read the secret from standard input.")] = False,
    may_send_code: Annotated[
        bool, typer.Option("--code", help="Jobs submitted with it may bring code.")
    ] = False,
    expires: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Time until it stops working, e.g. 90d or 12h. Default: never."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create a token and print it. It is shown only once."""
    if stdin:
        if expires is not None:
            raise InputError(
                "Give only one of --stdin and --expires: a secret that is given again stays as it is."
            )
        jobs = ledger_jobs(settings_here("token create --stdin"))
        token = jobs.store_token(owner, role, sys.stdin.read().strip(), may_send_code=may_send_code)
        err.print(f"Token {token.id} of {token.owner}, role {token.role}.")
        return
    token, secret = open_jobs().create_token(owner, role, may_send_code=may_send_code, expires=expires)
    if as_json:
        print_json({**token.model_dump(mode="json"), "secret": secret})
        return
    until = f", until {token.expires.astimezone():%Y-%m-%d %H:%M}" if token.expires else ""
    err.print(f"Token {token.id} of {token.owner}, role {token.role}{until}. Save it; it is not shown again:")
    sys.stdout.write(f"{secret}\n")


@token_app.command("list")
def token_list(as_json: AsJson = False) -> None:
    """List all tokens, oldest first."""
    found = open_jobs().tokens()
    if as_json:
        print_json([token.model_dump(mode="json") for token in found])
    elif found:
        out.print(console.tokens_table(found))
    else:
        out.print("No tokens yet. Create one: anon-tune token create NAME --role admin")


@token_app.command("revoke")
def token_revoke(
    token_id: Annotated[str, typer.Argument(metavar="TOKEN", help="A token's id.")], as_json: AsJson = False
) -> None:
    """Revoke a token, immediately and permanently."""
    token = open_jobs().revoke_token(token_id)
    if as_json:
        print_json(token.model_dump(mode="json"))
    else:
        out.print(f"Token {token.id} of {token.owner} is revoked.")


def audit(
    job_id: Annotated[
        str | None, typer.Option("--job", metavar="JOB", help="Only what was done with this job.")
    ] = None,
    owner: Annotated[str | None, typer.Option(metavar="NAME", help="Only what this user did.")] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Only from this time on: a date such as 2026-12-01, or 7d, 12h ago."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most lines to show.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List who submitted, paused, cancelled, extended, made tokens or signed in, newest first."""
    moment = None if since is None else _moment(since)
    found = list(itertools.islice(open_jobs().audit(job_id, owner, moment), limit))
    if as_json:
        print_json([entry.model_dump(mode="json") for entry in found])
    elif found:
        out.print(console.audit_table(found))
    else:
        out.print("Nothing was done yet that fits.")


def _moment(text: str) -> datetime.datetime:
    """Return the time that a text names, a date or how long ago it was. Raises InputError."""
    from anon_tune.spec import seconds

    with contextlib.suppress(ValueError):
        return datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds(text))
    try:
        return datetime.datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise InputError(
            f"--since: expected a date such as 2026-12-01, or a duration such as 7d, found {text!r}"
        ) from None


@db_app.command("upgrade")
def db_upgrade() -> None:
    """Create the ledger's database, or upgrade its schema to this version."""
    from anon_tune.jobs.ledger import open_ledger

    settings = settings_here("db upgrade")
    open_ledger(settings).close()
    out.print("The ledger is up to date.")


@mlflow_app.command("sync")
def mlflow_sync(
    job_id: JobId,
    follow: Annotated[
        int | None,
        typer.Option(metavar="PID", help="Continue while the job runs and this parent process lives."),
    ] = None,
    token: Annotated[int, typer.Option(help="Fencing token of the lease to follow.", hidden=True)] = 0,
) -> None:
    """Write the missing parts of a job to MLflow. Running it again changes nothing."""
    from anon_tune import api
    from anon_tune.jobs.ledger import open_ledger

    if follow is not None:
        os.nice(19)  # below the training processes, which Ray starts at 15
    settings = settings_here("mlflow sync")
    ledger = open_ledger(settings)
    ledger.jobs.get(job_id)
    projector = api.project(ledger, settings)
    if follow is None:
        written = projector.sync(job_id)
        out.print(f"{written} trials of job {job_id} written to {without_password(settings.tracking_uri)}")
        return
    projector.follow(job_id, token, until=lambda: os.getppid() != follow)
