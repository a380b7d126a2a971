"""A ledger on every kind of database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from anon_tune.ledger import Ledger


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    opened = Ledger.open(database_url)
    yield opened
    opened.close()
