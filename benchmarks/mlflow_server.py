"""A real MLflow server on a free port, which can be killed and started again on its store."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

_PATIENCE_SECONDS = 300.0  # a machine may be busy with other work
_POLL_SECONDS = 0.2


class MlflowServer:
    """`mlflow server` with an sqlite store in `folder`, of which it keeps the port when it is started again.

    Attributes:
        url: Address of the server.
        store: The database behind it.
    """

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.store = f"sqlite:///{folder / 'server.db'}"
        self._log = folder / "server.log"
        self._command = [
            *(str(Path(sys.executable).parent / "mlflow"), "server", "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", self.store),
            *("--artifacts-destination", str(folder / "server-artifacts")),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        environment = {**kept, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        limit = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=_PATIENCE_SECONDS).close()
                return
            except (urllib.error.URLError, ConnectionError):
                if self._process.poll() is not None or time.monotonic() > limit:
                    raise RuntimeError(f"no MLflow server: {self._log.read_text()}") from None
                time.sleep(_POLL_SECONDS)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop all its processes; SIGKILL is how a machine loses them."""
        if self._process is None:
            return
        os.killpg(self._process.pid, how)
        self._process.wait()
        self._process = None
