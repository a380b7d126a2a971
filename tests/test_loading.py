"""Loading without what takes time, and everything as it was afterwards."""

from __future__ import annotations

import contextlib
import gc
import os

import pytest

from anon_tune.loading import uncollected, without_plugins


@pytest.mark.parametrize("set_by_the_user", [None, "logfire-plugin"])
@pytest.mark.parametrize("error", [None, ImportError])
def test_plugins_of_pydantic_are_looked_for_again(
    monkeypatch: pytest.MonkeyPatch, set_by_the_user: str | None, error: type[Exception] | None
):
    monkeypatch.delenv("PYDANTIC_DISABLE_PLUGINS", raising=False)
    if set_by_the_user is not None:
        monkeypatch.setenv("PYDANTIC_DISABLE_PLUGINS", set_by_the_user)
    with contextlib.suppress(ImportError), without_plugins():
        assert os.environ["PYDANTIC_DISABLE_PLUGINS"] == "__all__"
        if error is not None:
            raise error
    assert os.environ.get("PYDANTIC_DISABLE_PLUGINS") == set_by_the_user


@pytest.mark.parametrize("was_enabled", [True, False])
def test_garbage_is_collected_again_if_it_was(was_enabled: bool):
    before = gc.isenabled()
    try:
        (gc.enable if was_enabled else gc.disable)()
        with uncollected():
            assert not gc.isenabled()
        assert gc.isenabled() == was_enabled
    finally:
        (gc.enable if before else gc.disable)()


def test_what_is_loaded_for_good_is_never_looked_at():
    runs: list[str] = []

    def note(moment: str, _: object) -> None:
        runs.append(moment)

    gc.callbacks.append(note)
    try:
        with uncollected(for_good=True):
            made = [[] for _ in range(100_000)]
        assert runs == []
        assert not any(found is made[0] for found in gc.get_objects())
        assert gc.isenabled()
    finally:
        gc.callbacks.remove(note)
        gc.unfreeze()
