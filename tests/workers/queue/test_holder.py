"""Who works on a job, by the name that it gives itself."""

from __future__ import annotations

import socket

import pytest

from anon_tune.workers.queue.holder import is_on_this_machine, this_process


def test_this_process_is_on_this_machine():
    assert is_on_this_machine(this_process())
    assert is_on_this_machine(f"another user@{socket.gethostname()}, process 3")


@pytest.mark.parametrize("holder", ["me@elsewhere, process 1", "me@not-{here}, process 1", "{here}", ""])
def test_others_are_not(holder: str):
    assert not is_on_this_machine(holder.format(here=socket.gethostname()))
