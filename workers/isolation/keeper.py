"""The keeper's process: it has loaded what trials need, and forks a guard for each.

`python -m anon_tune.workers.isolation.keeper DESCRIPTOR MODULE...` starts it. Loading torch takes seconds, a fork
hundredths of one. A fork is safe while there is no pool of threads. So the process runs no operation of torch, asks
for no GPU, and imports neither Ray nor the user's modules.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import sys

import psutil

from anon_tune.workers.isolation.guard import guard
from anon_tune.workers.isolation.messages import Order, Started, send

__all__ = ["main"]

_LINE_BYTES = 2**20


def main() -> None:
    """Load, and follow orders until the other side of the socket is closed."""
    control = socket.socket(fileno=int(sys.argv[1]))
    # Not a child of the worker: Ray kills those when the worker ends, and then nobody would end the trials.
    if os.fork():
        os._exit(0)
    os.setsid()
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # guards need not be waited for
    gc.disable()
    for module in sys.argv[2:]:
        importlib.import_module(module)

    gc.freeze()
    threads = psutil.Process().num_threads()  # OpenBLAS starts some, and can be forked
    send(control, Started(os.getpid()))
    while (received := _next(control)) is not None:
        order, theirs = received
        if os.fork() == 0:
            control.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            guard(order, theirs)
        theirs.close()
        if psutil.Process().num_threads() > threads:
            break  # a fork beside a thread may hang: another process takes over


def _next(control: socket.socket) -> tuple[Order, socket.socket] | None:
    """Return the next order and the socket of its guard; None if no more come."""
    select.select([control], [], [])
    data, descriptors, _, _ = socket.recv_fds(control, _LINE_BYTES, 1)
    if not data:
        return None
    while not data.endswith(b"\n"):
        data += control.recv(_LINE_BYTES)
    return Order(**json.loads(data)), socket.socket(fileno=descriptors[0])


if __name__ == "__main__":
    main()
