"""Requests made from the service's own description: none breaks it, and all are answered as it says."""

from __future__ import annotations

import json
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import positive_data_acceptance

from anon_tune.errors import SpecError
from anon_tune.jobs.ledger import LedgerJobs
from anon_tune.ledger import Ledger
from anon_tune.records import Role
from anon_tune.settings import Settings
from anon_tune.spec import parse_spec
from tests.service.conftest import SPEC, Serve

pytestmark = pytest.mark.slow

schemathesis.openapi.media_type("application/zip", st.binary(max_size=200))

CASES = 120
"""For each of the 24 operations: more than 2,000."""
SPECS = 2000
GENERATED: dict[str, Any] = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "phases": [Phase.explicit, Phase.generate],
    "suppress_health_check": list(HealthCheck),
}
"""The same cases each time, and all of them."""


@pytest.fixture
def address(serve: Serve, ledger: Ledger) -> str:
    ledger.jobs.create("there", parse_spec(SPEC).model_dump(mode="json"), {})
    return serve()


@pytest.fixture
def as_admin(ledger: Ledger) -> dict[str, str]:
    """Generated requests make tokens too, from the first of which on the service is closed to others."""
    _, secret = ledger.tokens.create("admin", Role.ADMIN)
    return {"Authorization": f"Bearer {secret}"}


def test_the_description_holds_for_generated_requests(address: str, as_admin: dict[str, str]):
    schema = schemathesis.openapi.from_url(f"{address}/api/v1/openapi.json")
    calls = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path.endswith("/events"):
            continue  # an open end; see test_jobs

        @given(case=operation.as_strategy())
        @hypothesis.settings(
            max_examples=CASES,
            **GENERATED,
        )
        def each(case: Any) -> None:
            nonlocal calls
            calls += 1
            # Whether a job is valid is more than a schema says; test_jobs and the test below are about that.
            case.call_and_validate(headers=as_admin, excluded_checks=[positive_data_acceptance])

        each()
    assert calls >= 2000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=6,
)
WORDS = st.sampled_from(
    [
        "image_classification",
        "language_model",
        "digits",
        "cnn",
        "mlp",
        "anon",
        "sgd",
        "os:system",
        "../x",
        "x.yaml",
        "",
    ]
)


@st.composite
def specs(draw: st.DrawFn) -> Any:
    """A valid job, with some of its keys, at any depth, replaced, removed or added."""
    spec = json.loads(parse_spec(SPEC).model_dump_json(exclude={"folder"}))
    for _ in range(draw(st.integers(1, 4))):
        node = spec
        while True:
            key = draw(st.sampled_from([*node, "new"]) if node else st.just("new"))
            if isinstance(node.get(key), dict) and draw(st.booleans()):
                node = node[key]
                continue
            break
        if draw(st.integers(0, 5)) == 0:
            node.pop(key, None)
        else:
            node[key] = draw(JSON | WORDS | st.lists(WORDS, max_size=3))
    return spec


def test_any_job_is_taken_or_refused_by_its_keys(ledger: Ledger, settings: Settings):
    """As the route does it; that an InputError becomes a 422 is tested with the routes."""
    jobs = LedgerJobs(ledger, settings)
    taken = refused = 0

    @given(spec=specs())
    @hypothesis.settings(
        max_examples=SPECS,
        **GENERATED,
    )
    def each(spec: Any) -> None:
        nonlocal taken, refused
        try:
            job = jobs.submit_remote(spec, {})
        except SpecError as error:
            refused += bool(error.problems)
        else:
            taken += 1
            assert jobs.job(job.id).planned > 0  # what was stored can be read

    each()
    assert taken + refused == SPECS
    assert taken > 20
    assert refused > 200
