"""The first page: all jobs, filtered, sorted and live."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import HTMLResponse

from anon_tune.dashboards.pages import render
from anon_tune.records import JobList, JobOrder, JobQuery, JobState, Role
from anon_tune.service.pages.session import PageReader, is_htmx
from anon_tune.waiting import about_gpus, about_workers

__all__ = ["router"]

_PER_PAGE = 50

router = APIRouter(include_in_schema=False)

Text = Annotated[str, Query(max_length=100)]


@dataclass(frozen=True)
class _Asked:
    """Filters, order and page, as the address has them."""

    q: str
    state: JobState | None
    owner: str
    order: JobOrder
    descending: bool
    number: int

    @property
    def query(self) -> JobQuery:
        """The query for the ledger."""
        return JobQuery(
            frozenset() if self.state is None else frozenset({self.state}),
            self.owner or None,
            self.q.strip(),
            self.order,
            self.descending,
            _PER_PAGE,
            (self.number - 1) * _PER_PAGE,
        )

    @property
    def is_filtered(self) -> bool:
        """Whether it leaves out jobs."""
        return bool(self.q.strip() or self.state or self.owner)

    def address(self, order: JobOrder | None = None, number: int = 1, path: str = "/") -> str:
        """Return the address with a header's order, the other way round if it is this one; or of another page."""
        descending = self.descending
        if order is not None:
            descending = not descending if order is self.order else order is JobOrder.CREATED
        values = {
            "q": self.q,
            "state": self.state.value if self.state else "",
            "owner": self.owner,
            "sort": ("-" if descending else "") + (order or self.order).value,
            "page": str(number) if number > 1 else "",
        }
        given = {name: value for name, value in values.items() if value and (name, value) != ("sort", _SORT)}
        return path + (f"?{urlencode(given)}" if given else "")

    @property
    def rows(self) -> str:
        """Address of the rows of this page, which are loaded again every few seconds."""
        return self.address(number=self.number, path="/rows")

    def direction(self, order: JobOrder) -> str:
        """Return the value of a header's aria-sort."""
        if order is not self.order:
            return "none"
        return "descending" if self.descending else "ascending"


_SORT = "-created"
_ORDERS = "|".join(JobOrder)


def _asked(
    q: Text = "",
    state: Annotated[str, Query(pattern=f"^({'|'.join(JobState)})?$")] = "",
    owner: Text = "",
    sort: Annotated[str, Query(pattern=f"^-?({_ORDERS})$")] = _SORT,
    page: Annotated[int, Query(ge=1, le=10_000)] = 1,
) -> _Asked:
    return _Asked(
        q,
        JobState(state) if state else None,
        owner,
        JobOrder(sort.removeprefix("-")),
        sort.startswith("-"),
        page,
    )


Asked = Annotated[_Asked, Depends(_asked)]


@router.get("/", response_class=HTMLResponse)
def jobs(request: Request, user: PageReader, asked: Asked) -> str:
    """Show the jobs; of a request by htmx, only the list."""
    name = "jobs_list.html" if is_htmx(request) else "jobs.html"
    found = user.user.surroundings.ledger.overviews.find(asked.query)
    return _rendered(name, request, user, asked, found)


@router.get("/rows", response_class=HTMLResponse)
def rows(
    request: Request,
    user: PageReader,
    asked: Asked,
    empty: bool = False,
    seen: Annotated[str, Query(max_length=64)] = "",
) -> Response:
    """Show the rows as they are now; the whole page anew once the first job is there.

    `seen` is the digest of the rows that the browser has: if they are the same, nothing is sent.
    """
    found = user.user.surroundings.ledger.overviews.find(asked.query)
    if empty:
        return Response(status_code=204, headers={"HX-Refresh": "true"} if found.found else {})
    text = _rendered("jobs_rows.html", request, user, asked, found)
    digest = hashlib.sha256(text.encode()).hexdigest()
    if digest == seen:
        return Response(status_code=204)
    return HTMLResponse(text + render("jobs_seen.html", seen=digest))


def _rendered(name: str, request: Request, user: PageReader, asked: _Asked, found: JobList) -> str:
    workers = user.user.jobs.workers()
    return render(
        name,
        user=user,
        page="Jobs",
        asked=asked,
        found=found,
        pages=max(1, -(-found.found // _PER_PAGE)),
        all_jobs=sum(found.states.values()),
        states=list(JobState),
        orders=JobOrder,
        workers=workers,
        about_workers=about_workers(workers),
        gpus=about_gpus,
        may_submit=user.user.has(Role.SUBMIT),
        address=str(request.base_url).rstrip("/"),
    )
