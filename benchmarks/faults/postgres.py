"""A PostgreSQL server that can be restarted and frozen, without fsync."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

__all__ = ["Postgres", "postgres_programs"]


def postgres_programs() -> Path | None:
    """Return the folder of `initdb` and `pg_ctl`; None if PostgreSQL's server is not installed."""
    found = shutil.which("initdb") or next(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), None)
    return None if found is None else Path(found).parent


class Postgres:
    """A server in a folder of its own, until the context ends.

    Args:
        user: Its superuser.
        password: Password that connections to its socket need; None: none.
        options: Options of the server besides its socket; by default it has no port.

    Attributes:
        folder: The folder, with its socket and its log.
    """

    def __init__(
        self, user: str = "postgres", password: str | None = None, options: str = "-c listen_addresses=''"
    ) -> None:
        self._user, self._password, self._options = user, password, options
        self._as_user: list[str] = []

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="anon_tune_pg_"))
        if os.geteuid() == 0:  # which PostgreSQL refuses to run as
            shutil.chown(self.folder, "postgres")
            self._as_user = ["runuser", "-u", "postgres", "--"]
        try:
            self._run("initdb", *self._authentication(), "-U", self._user, "--no-sync")
            self.start()
        except BaseException:
            shutil.rmtree(self.folder)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._signal_all("resume")
        try:
            self.stop("immediate")
        finally:
            shutil.rmtree(self.folder)

    @property
    def url(self) -> str:
        """The address of its database `postgres`, by the server's socket."""
        return f"postgresql+psycopg://postgres@/postgres?host={self.folder}"

    @property
    def socket(self) -> Path:
        """The socket itself."""
        return self.folder / ".s.PGSQL.5432"

    def _authentication(self) -> list[str]:
        if self._password is None:
            return ["--auth-local=trust", "--auth-host=scram-sha-256"]
        file = self.folder / "password"
        file.write_text(self._password)
        return ["--auth=scram-sha-256", f"--pwfile={file}"]

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        options = f"-k {self.folder} -c fsync=off {self._options}"
        self._run("pg_ctl", "-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop the server, and wait for its end."""
        self._run("pg_ctl", "-m", mode, "-w", "stop")

    def bounce(self, seconds: float) -> None:
        """Restart the server, which is away for so long."""
        self.stop()
        time.sleep(seconds)
        self.start()

    def freeze(self, seconds: float) -> None:
        """Stop all processes of the server, so that nothing answers and no connection ends, and continue them."""
        self._signal_all("suspend")
        try:
            time.sleep(seconds)
        finally:
            self._signal_all("resume")

    def _signal_all(self, action: str) -> None:
        pid = int((self.folder / "data" / "postmaster.pid").read_text().splitlines()[0])
        postmaster = psutil.Process(pid)
        getattr(postmaster, action)()  # first: it starts no other meanwhile
        for process in postmaster.children(recursive=True):
            getattr(process, action)()

    def _run(self, program: str, *arguments: str) -> None:
        programs = postgres_programs()
        if programs is None:
            raise SystemExit("needs PostgreSQL's server programs (initdb, pg_ctl)")
        command = [*self._as_user, str(programs / program), "-D", str(self.folder / "data"), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self.folder)
