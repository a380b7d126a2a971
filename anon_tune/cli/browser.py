"""The command that opens a service's pages."""

from __future__ import annotations

import sys
import webbrowser
from typing import Annotated

import typer

from anon_tune.cli.place import chosen, server_address
from anon_tune.cli.printing import err
from anon_tune.errors import NotFoundError
from anon_tune.settings import Settings

__all__ = ["open"]


def open(
    job_id: Annotated[
        str | None, typer.Argument(metavar="JOB", help="Id of a job. Default: the list of all jobs.")
    ] = None,
    only_print: Annotated[
        bool, typer.Option("--print", help="Print the address, which signs in once, and open nothing.")
    ] = False,
) -> None:
    """Open a job's page in the browser, signed in."""
    from anon_tune.jobs.client import open_service
    from anon_tune.local_service import running_service

    server = server_address() or running_service(chosen.settings)
    if server is None:
        raise NotFoundError("No service runs here. Start one with `anon-tune up`, or name one with --server.")
    with open_service(chosen.settings, server) as jobs:
        address = jobs.sign_in_link("/" if job_id is None else f"/jobs/{jobs.job(job_id).id}")
    if only_print or not _opens(address, chosen.settings):
        sys.stdout.write(f"{address}\n")


def _opens(address: str, settings: Settings) -> bool:
    """Open an address in a browser, and return whether there is one.

    The browser gets a file that leads there: other users of this machine see the arguments of its process, and could
    use the link before it does.
    """
    from html import escape

    from anon_tune.local_service import private_file

    settings.make_home()
    path = settings.home.absolute() / "open.html"
    meta = f'<meta http-equiv="refresh" content="0; url={escape(address)}">'
    private_file(path, f'<!doctype html><title>anon_tune</title>{meta}<a href="{escape(address)}">Open</a>\n')
    try:
        found = webbrowser.open(path.as_uri())
    except webbrowser.Error:
        return False
    if found:
        err.print("Opened in your browser. If it shows no page, use `anon-tune open --print`.")
    return found
