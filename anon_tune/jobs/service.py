"""The jobs of a service, over HTTP."""

from __future__ import annotations

import datetime
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import httpx2
import tenacity
from pydantic import BaseModel, TypeAdapter, ValidationError

from anon_tune import code_archive, errors
from anon_tune.advice.statement import Advice, Fingerprint
from anon_tune.errors import AnonTuneError, DependencyError, InputError, SpecError
from anon_tune.jobs.interface import API, Jobs
from anon_tune.reachable import http_client, proxy_of, without_password
from anon_tune.records import Role
from anon_tune.texts import quoted
from anon_tune.views import (
    AuditView,
    ChangeView,
    DeletionView,
    JobSummary,
    JobView,
    LinkView,
    LogsView,
    ReportView,
    TokenView,
    TrialView,
    WorkerView,
)

if TYPE_CHECKING:
    from anon_tune.search_spaces import Space
    from anon_tune.spec import JobFile

__all__ = ["ServiceJobs"]

V = TypeVar("V")

_TIMEOUT_SECONDS = 30.0
_PAGE = 500
_POLL_SECONDS = 0.5
_RESTART_SECONDS = 60.0
_AWAY = {502, 503, 504}
"""Status codes of a proxy, or of a service without its database, for a while."""
_BY_STATUS = {
    401: InputError,
    403: InputError,
    404: errors.NotFoundError,
    409: errors.ConflictError,
    422: InputError,
}


class ServiceJobs(Jobs):
    """Jobs of a service.

    While the service is unavailable, requests that are safe to repeat are sent again: all reads, and submissions,
    which carry a key. Other requests are sent again only if they certainly did not arrive.

    Args:
        server: Address of the service, such as "http://127.0.0.1:8000".
        token: Token to send; None if the service needs none.
        patience: Seconds to wait for a service that has not answered yet. A service that has answered before is
            probably restarting, so the wait is at least a minute.

    Raises:
        InputError: `server` is not an address, or `token` contains characters that no token has.
        DependencyError: A proxy variable names a proxy that cannot be used.
    """

    def __init__(self, server: str, token: str | None = None, patience: float = 5.0) -> None:
        if token is not None and not (
            token.isascii() and token.isprintable() and token.strip() == token != ""
        ):
            raise InputError(
                "Invalid token: it contains spaces or unprintable characters. Set ANON_TUNE_TOKEN again."
            )
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._server, self._patience = server.rstrip("/"), patience
        self._has_answered = False
        try:
            url = httpx2.URL(server)
        except httpx2.InvalidURL:
            url = httpx2.URL("")
        if url.scheme not in {"http", "https"} or not url.host:
            raise InputError(
                f"{without_password(server)!r} is not the address of a service. Give one such as http://127.0.0.1:8000"
            )
        self._http = http_client(self._server, _TIMEOUT_SECONDS)
        self._http.headers.update(headers)

    def close(self) -> None:
        self._http.close()

    def _submit(self, job: JobFile, priority: int, key: str | None, code: Path | None) -> JobSummary:
        """Send a job with the search spaces in files beside its job file."""
        from anon_tune.documents import plain, read_yaml  # no other request needs the job file's schema
        from anon_tune.spec import space_files

        folder = job.folder
        spaces = (
            {} if folder is None else {name: read_yaml(folder / name) for name in space_files(job.document)}
        )
        body: dict[str, Any] = {"spec": dict(job.document), "spaces": spaces, "priority": priority}
        if code is not None:
            archive = code_archive.pack(code)
            body["code"] = code_archive.digest(archive)
            as_zip = {"Content-Type": "application/zip"}
            self._ask("PUT", f"/code/{body['code']}", content=archive, headers=as_zip, again=True)
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        answer = self._ask("POST", "/jobs", json=_json(plain(body), job.source), headers=headers, again=True)
        return _read(JobSummary, answer)

    def sign_in_link(self, path: str) -> str:
        """Return an address that signs a browser in once, within some minutes, and leads to a page by its path."""
        answer = self._ask("POST", "/sign-in-links", json={"next": path}, again=True)
        return self._server + _read(LinkView, answer).path

    def jobs(self) -> list[JobSummary]:
        return list(self._pages("/jobs", JobSummary))

    def job(self, job_id: str) -> JobView:
        return _read(JobView, self._get(_job(job_id)))

    def list_trials(self, job_id: str) -> list[TrialView]:
        return list(self._pages(f"{_job(job_id)}/trials", TrialView))

    def reports(self, job_id: str, trial: str | None = None) -> Iterator[ReportView]:
        of_trial = "" if trial is None else f"/trials/{quote(trial, safe='')}"
        return self._pages(f"{_job(job_id)}{of_trial}/reports", ReportView)

    def spaces(self, job_id: str) -> dict[str, Space]:
        from anon_tune.search_spaces import Space

        return _read(dict[str, Space], self._get(f"{_job(job_id)}/spaces"))

    def logs(self, job_id: str, trial: str | None = None, since: int | None = None) -> LogsView:
        given = {key: value for key, value in (("trial", trial), ("since", since)) if value is not None}
        return _read(LogsView, self._get(f"{_job(job_id)}/logs", given))

    def pause(self, job_id: str) -> ChangeView:
        return _read(ChangeView, self._ask("POST", f"{_job(job_id)}:pause"))

    def resume(self, job_id: str) -> ChangeView:
        return _read(ChangeView, self._ask("POST", f"{_job(job_id)}:resume"))

    def cancel(self, job_id: str) -> ChangeView:
        return _read(ChangeView, self._ask("POST", f"{_job(job_id)}:cancel"))

    def delete(self, job_id: str, *, only_ended: bool = False) -> DeletionView:
        given = {"only_ended": "true"} if only_ended else {}
        return _read(DeletionView, self._ask("DELETE", _job(job_id), params=given))

    def _extend(
        self, job_id: str, trials: int | None, seconds: float | None, seeds: int | None
    ) -> ChangeView:
        given = {"trials": trials, "time": seconds, "seeds": seeds}
        asked = {name: value for name, value in given.items() if value is not None}
        return _read(ChangeView, self._ask("POST", f"{_job(job_id)}:extend", json=asked))

    def export(self, job_id: str, form: str = "yaml", arm: str = "anon") -> str:
        return self._get(f"{_job(job_id)}/export", {"format": form, "arm": arm}).text

    def _advice(self, architecture: Fingerprint, log_mean_sigma: float | None) -> Advice:
        body = {"architecture": architecture.model_dump(mode="json"), "log_mean_sigma": log_mean_sigma}
        return _read(Advice, self._ask("POST", "/advice", json=body, again=True))

    def workers(self) -> list[WorkerView]:
        return _read(list[WorkerView], self._get("/workers"))

    def _create_token(
        self, owner: str, role: Role, may_send_code: bool, seconds: float | None
    ) -> tuple[TokenView, str]:
        wanted: dict[str, Any] = {"owner": owner, "role": role.value, "may_send_code": may_send_code}
        if seconds is not None:
            wanted["expires_in"] = seconds
        answer = self._ask("POST", "/tokens", json=wanted)
        made = _read(dict[str, Any], answer)
        return _read(TokenView, answer), str(made["secret"])

    def tokens(self) -> list[TokenView]:
        return _read(list[TokenView], self._get("/tokens"))

    def revoke_token(self, token_id: str) -> TokenView:
        return _read(TokenView, self._ask("DELETE", f"/tokens/{quote(token_id, safe='')}", again=True))

    def audit(
        self, job: str | None = None, owner: str | None = None, since: datetime.datetime | None = None
    ) -> Iterator[AuditView]:
        given = {"job": job, "owner": owner, "since": None if since is None else since.isoformat()}
        query = {name: value for name, value in given.items() if value is not None}
        return self._pages("/audit", AuditView, query)

    def watch(self, job_id: str) -> Iterator[JobView]:
        last = None
        while True:
            for seen in self._events(job_id):
                if seen != last:
                    yield seen
                    last = seen
            # Some proxies block events, so ask for the job; this also waits for a service that is unavailable.
            seen = self.job(job_id)
            if seen != last:
                yield seen
                last = seen
            if seen.is_at_rest:
                return
            time.sleep(_POLL_SECONDS)

    def _events(self, job_id: str) -> Iterator[JobView]:
        """Yield the events of one connection, until the job ends or the connection breaks."""
        try:
            with self._http.sse(f"{API}{_job(job_id)}/events") as source:
                if source.response.status_code != 200:
                    return
                self._has_answered = True
                for event in source:
                    if event.event == "job":
                        yield JobView.model_validate_json(event.data)
        except (httpx2.HTTPError, ValidationError):
            return

    def _pages(self, path: str, view: type[V], given: Mapping[str, str] | None = None) -> Iterator[V]:
        """Yield the items of all pages of a list; a page is requested when the one before has been used."""
        query: dict[str, Any] = {"limit": _PAGE, **(given or {})}
        while True:
            page = _read(_Page, self._get(path, query))
            yield from TypeAdapter(list[view]).validate_python(page.items)  # type: ignore[valid-type]
            if page.next is None:
                return
            query["after"] = page.next

    def _get(self, path: str, query: Mapping[str, Any] | None = None) -> httpx2.Response:
        return self._ask("GET", path, params=query or {}, again=True)

    def _ask(self, method: str, path: str, *, again: bool = False, **content: Any) -> httpx2.Response:
        """Send a request and return the response; `again` means that it is safe to repeat."""

        def is_worth_another(error: BaseException) -> bool:
            return isinstance(error, httpx2.ConnectError) or (
                again and isinstance(error, httpx2.TransportError)
            )

        attempts = tenacity.Retrying(
            retry=tenacity.retry_any(
                tenacity.retry_if_exception(is_worth_another),
                tenacity.retry_if_result(lambda answer: again and answer.status_code in _AWAY),
            ),
            wait=tenacity.wait_exponential(multiplier=0.1, max=2.0),
            stop=tenacity.stop_after_delay(
                max(self._patience, _RESTART_SECONDS) if self._has_answered else self._patience
            ),
            retry_error_callback=lambda state: (
                state.outcome and state.outcome.result()
            ),  # the last one counts
        )
        try:
            answer: httpx2.Response = attempts(self._http.request, method, f"{API}{path}", **content)
        except httpx2.HTTPError as error:
            if again or isinstance(error, httpx2.ConnectError):
                proxy = proxy_of(self._server)
                through = "" if proxy is None else f" through the proxy {proxy}"
                instead = "" if proxy is None else " To connect without the proxy, add the host to NO_PROXY."
                raise DependencyError(
                    f"The service at {without_password(self._server)} does not answer{through} ({error}). "
                    f"Start it: anon-tune up; or set ANON_TUNE_SERVER to where it is.{instead}"
                ) from error
            raise DependencyError(
                f"Lost the connection to {without_password(self._server)} ({error}). The request may have been "
                "processed: check with `anon-tune jobs` before you retry."
            ) from error
        self._has_answered = answer.status_code not in _AWAY
        if answer.is_success:
            return answer
        raise _error(answer)


def _job(job_id: str) -> str:
    return f"/jobs/{quote(job_id, safe='')}"


class _Page(BaseModel):
    """One page of a list."""

    items: list[Any]
    next: str | None


def _read(kind: type[V], answer: httpx2.Response) -> V:
    try:
        return TypeAdapter(kind).validate_json(answer.content)
    except ValidationError as error:
        raise DependencyError(
            f"The response from {answer.request.url} does not match this version of anon_tune "
            f"({error.error_count()} invalid fields). "
            "Install the service's version of anon_tune."
        ) from error


def _error(answer: httpx2.Response) -> AnonTuneError:
    """Return the error in a service's problem document, as it would have been raised here."""
    try:
        problem = answer.json()
        detail, kind, problems = problem["detail"], problem["type"], problem["problems"]
    except (ValueError, KeyError, TypeError):
        return DependencyError(
            f"{answer.request.url} answered {answer.status_code} and is not an anon_tune service. Check the address."
        )
    name = kind.rpartition(":")[2]
    if name == SpecError.__name__:
        return SpecError("job", problems)
    found = getattr(errors, name, None) if name in errors.__all__ else None
    return (found or _BY_STATUS.get(answer.status_code, DependencyError))(detail)


def _json(value: Any, source: str) -> Any:
    """Return `value` as JSON. Raises SpecError for what only YAML has, such as dates and sets."""
    if isinstance(value, Mapping):
        return {str(key): _json(item, source) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item, source) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and value - value == 0:
        return value
    raise SpecError(
        source, [f"{quoted(value)} cannot be a value in a job file: use numbers, text, lists or keys"]
    )
