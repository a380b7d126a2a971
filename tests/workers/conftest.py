"""Shared fixture of the workers' tests: a ledger."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from anon_tune.ledger import Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield opened
    opened.close()
