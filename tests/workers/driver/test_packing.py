"""Functions of notebooks on their way to the processes of trials."""

from __future__ import annotations

import pickle
import threading

import pytest

from anon_tune.errors import InputError
from anon_tune.workers.driver.packing import packed

LOCK = threading.Lock()
WIDTH = 3


def plain(context: object) -> int:
    return WIDTH


def test_functions_arrive():
    assert pickle.loads(packed({"__main__:plain": plain}))["__main__:plain"](None) == 3


def test_a_variable_that_cannot_be_sent_is_named():
    def trains(context: object) -> None:
        with LOCK:
            pass

    trains.__module__ = "__main__"  # as in a notebook: it is sent by value
    with pytest.raises(
        InputError, match=r"__main__:trains uses the variable LOCK \(lock\), which cannot be sent"
    ):
        packed({"__main__:trains": trains})


def test_a_variable_of_a_function_around_it_is_named_too():
    own = threading.Lock()

    def trains(context: object) -> None:
        own.acquire()

    with pytest.raises(InputError, match=r"uses the variable own \(lock\)"):
        packed({"__main__:trains": trains})


def test_without_a_variable_to_blame_the_error_is_told():
    class Trains:
        def __init__(self) -> None:
            self.lock = threading.Lock()

        def __call__(self, context: object) -> None:
            pass

    with pytest.raises(
        InputError, match="__main__:trains cannot be sent to the processes of the trials: cannot pickle"
    ):
        packed({"__main__:trains": Trains()})
