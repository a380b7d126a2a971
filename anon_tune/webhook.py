"""Webhook: a POST to other services when a job has ended, failed, or was paused without a request.

The ledger stores a notice in the transaction that changes the job. Every worker, service and `anon-tune run` with
ANON_TUNE_WEBHOOK sends what is due, from a thread of its own: each notice at least once, with an id to recognize a
repetition by, and again for a day while the address does not take it.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import hmac
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field

from anon_tune.errors import AnonTuneError, DependencyError, NotFoundError
from anon_tune.ledger import Ledger
from anon_tune.reachable import http_client
from anon_tune.records import JobRecord, JobState, Notice
from anon_tune.sentences import about_answer
from anon_tune.settings import Settings

__all__ = ["SIGNATURE", "Message", "Sender", "sending"]

SIGNATURE = "X-Anon-Tune-Signature"
"""Header with the HMAC-SHA256 of the body: "sha256=" and 64 hexadecimal digits."""

_POLL_SECONDS = 1.0
_TIMEOUT_SECONDS = 10.0
_FIRST_SECONDS, _LONGEST_SECONDS = 5.0, 600.0
"""Time until a notice is sent again: doubled after each try, up to the longest."""
_EXPECT_SECONDS = 3600.0
_MOST_DOUBLINGS = 10
_LAST_SECONDS = 5.0

_log = logging.getLogger(__name__)


class Message(BaseModel):
    """Body of a request to a webhook."""

    version: Literal[1] = 1
    id: str = Field(description="Id of this notice; the same if it is sent again.")
    time: datetime.datetime = Field(description="Time of the change (UTC).")
    job: str = Field(description="Id of the job.")
    name: str
    owner: str | None = Field(description="The user who submitted it to a service.")
    state: JobState = Field(description="SUCCEEDED, FAILED, CANCELLED or PAUSED.")
    reason: str | None
    answer: str | None = Field(description="The recommended gamma in one sentence; null without an answer.")
    url: str | None = Field(description="Address of the job's page; null unless ANON_TUNE_URL is set.")
    text: str = Field(description="All of it in one text, which Slack and Mattermost show.")


def _message(notice: Notice, job: JobRecord, url: str | None) -> Message:
    answer = None
    if notice.state is JobState.SUCCEEDED and job.answer is not None:
        answer = next(iter(about_answer(job.answer)), None)
    reason = f": {notice.reason}" if notice.reason else ""
    lines = [f"Job {job.name} ({job.id}) is {notice.state}{reason}", answer, url]
    return Message(
        id=notice.id,
        time=notice.created,
        job=job.id,
        name=job.name,
        owner=job.owner,
        state=notice.state,
        reason=notice.reason,
        answer=answer,
        url=url,
        text=_plain("\n".join(line for line in lines if line)),
    )


def _plain(text: str) -> str:
    """Return a text without the markup of Slack, in which <!channel> would notify everybody."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class Sender:
    """Sends the notices that are due to the webhooks of the settings.

    Args:
        ledger: Ledger that stores the notices.
        settings: Name the webhooks, the key that signs requests, and the address of the pages.
    """

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._ledger, self._settings = ledger, settings
        self._addresses: Mapping[str, str] = {
            hashlib.sha256(url.encode()).hexdigest(): url for url in settings.webhooks
        }
        self._failing: set[str] = set()
        self._expected = -math.inf

    def expect(self) -> None:
        """Have the ledger keep notices for the webhooks from now on."""
        if time.monotonic() - self._expected >= _EXPECT_SECONDS:
            self._ledger.notices.expect(self._addresses)
            self._expected = time.monotonic()

    def send_due(self) -> None:
        """Send each notice that is due once. Raises DependencyError if the ledger cannot be used."""
        self.expect()
        while (notice := self._ledger.notices.take(self._addresses)) is not None:
            problem = self._send(notice)
            if problem is None:
                self._ledger.notices.sent(notice)
                self._note_success(notice)
            else:
                wait = _FIRST_SECONDS * 2.0 ** min(notice.tries - 1, _MOST_DOUBLINGS)
                is_kept = self._ledger.notices.failed(notice, min(wait, _LONGEST_SECONDS))
                self._note_failure(notice, problem, is_kept)

    def _send(self, notice: Notice) -> str | None:
        """Send a notice, and return the problem if its webhook has not taken it."""
        url = self._addresses[notice.webhook]
        try:
            job = self._ledger.jobs.get(notice.job)
            body = _message(notice, job, self._settings.job_page(job.id)).model_dump_json().encode()
            headers = {"Content-Type": "application/json", **self._signature(body)}
            with (
                http_client(url, _TIMEOUT_SECONDS) as client,
                client.stream("POST", url, content=body, headers=headers) as answer,
            ):
                return None if answer.is_success else f"it answered {answer.status_code}"
        except NotFoundError:  # the job was deleted meanwhile
            return None
        except DependencyError as error:  # of a proxy, or of the ledger
            return str(error)
        except Exception as error:  # noqa: BLE001 - one notice must not keep the others; its text may hold the address
            return type(error).__name__

    def _signature(self, body: bytes) -> Mapping[str, str]:
        secret = self._settings.webhook_secret
        if secret is None:
            return {}
        return {
            SIGNATURE: f"sha256={hmac.new(secret.get_secret_value().encode(), body, hashlib.sha256).hexdigest()}"
        }

    def _note_success(self, notice: Notice) -> None:
        if notice.webhook in self._failing:
            self._failing.discard(notice.webhook)
            _log.info("the webhook at %s takes notices again", self._host(notice))

    def _note_failure(self, notice: Notice, problem: str, is_kept: bool) -> None:
        """Log the first failure of a webhook, and each notice that is given up."""
        host = self._host(notice)
        if not is_kept:
            _log.warning("job %s: the webhook at %s has not taken its notice for a day", notice.job, host)
        elif notice.webhook not in self._failing:
            self._failing.add(notice.webhook)
            _log.warning("the webhook at %s does not take notices (%s); they are sent again", host, problem)

    def _host(self, notice: Notice) -> str | None:
        return urlsplit(self._addresses[notice.webhook]).hostname


@contextlib.contextmanager
def sending(ledger: Ledger, settings: Settings) -> Iterator[None]:
    """Send notices from a thread of its own until the end of the block, and then once more what is due.

    Nothing that fails there reaches the block. Without ANON_TUNE_WEBHOOK this does nothing.
    """
    if not settings.webhooks:
        yield
        return
    thread = _Thread(Sender(ledger, settings))
    thread.start()
    try:
        yield
    finally:
        thread.stop()


class _Thread:
    """Sends what is due again and again."""

    def __init__(self, sender: Sender) -> None:
        self._sender, self._stopped, self._failed = sender, threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)

    def start(self) -> None:
        """Start, once the ledger keeps notices: the next change of a job must not be missed."""
        self._try(self._sender.expect)
        self._thread.start()

    def stop(self) -> None:
        """Send once more what is due, for some seconds; another process sends the rest."""
        self._stopped.set()
        self._thread.join(_LAST_SECONDS)

    def _run(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._stopped.wait(_POLL_SECONDS)
            self._try(self._sender.send_due)

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except AnonTuneError as error:
            if not self._failed:
                _log.warning("the webhook's notices cannot be read: %s", error)
            self._failed = True
        else:
            self._failed = False
