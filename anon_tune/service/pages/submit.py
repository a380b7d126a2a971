"""The page that submits a job: a form and the job file beside each other, each of which follows the other."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from anon_tune import catalogue
from anon_tune.dashboards.pages import render
from anon_tune.documents import yaml_mapping
from anon_tune.errors import SpecError
from anon_tune.estimate import about_time
from anon_tune.records import Phase
from anon_tune.search_spaces import space_names
from anon_tune.service.pages.session import PageSubmitter
from anon_tune.spec import JobSpec, stored_spec
from anon_tune.spec.form import FormSection, field_values, form_sections, with_field
from anon_tune.spec.starting import STARTING_POINTS, job_text, spaces_text, starting_text
from anon_tune.texts import quoted

__all__ = ["router"]

_LARGEST_TEXT = 8192
"""Most characters of a job file, and of its own search spaces: reading so many takes 0.07 s."""

_RECENT_JOBS = 20
_HIGHEST_PRIORITY = 1000
_PATH = re.compile(r"([\w.-]+): ")
_FIELD, _SHOWN = "field.", "shown."

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Draft:
    """A job as the page holds it while a user writes it.

    Attributes:
        text: The job file.
        spaces: The user's own search spaces by file name, as YAML.
        priority: Priority of the job, as text.
        key: Made with the page, so that the same job sent twice from it makes one job.
        values: Values of the form's fields, by path.
        shown: The values that the fields had when they were sent to the browser; those that differ were changed.
    """

    text: str
    spaces: str = ""
    priority: str = "0"
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    values: dict[str, list[str]] = field(default_factory=dict)
    shown: dict[str, list[str]] = field(default_factory=dict)

    @property
    def changed(self) -> list[str]:
        """Paths of the fields that the user has changed."""
        return [path for path, shown in self.shown.items() if set(self.values.get(path, [])) != set(shown)]


@dataclass(frozen=True)
class Problem:
    """A problem of a job, as the command line words it; `field` is the id of the form's field, if it has one."""

    message: str
    field: str | None = None


@dataclass(frozen=True)
class PlannedPhase:
    """Trials of a phase: of each arm, and of all arms."""

    phase: Phase
    each: int
    total: int


@dataclass(frozen=True)
class Checked:
    """A draft, read and checked.

    Attributes:
        text: The job file, with the changes that were made in the form.
        readable: Whether it is YAML with keys and values, so that the form can follow it.
        problems: Its problems; without any it can be submitted.
        planned: Trials of each phase, of a job without problems.
        time: Sentences on the time that it will take.
    """

    text: str
    document: dict[str, Any]
    readable: bool
    problems: tuple[Problem, ...] = ()
    planned: tuple[PlannedPhase, ...] = ()
    time: tuple[str, ...] = ()

    @cached_property
    def sections(self) -> list[FormSection]:
        """The form for this job file."""
        return form_sections(self.document)

    @cached_property
    def values(self) -> dict[str, list[str]]:
        """Values of its fields."""
        return field_values(self.document, self.sections)

    def problems_of(self, field_id: str) -> list[str]:
        """Return the messages of a field, without its path."""
        return [_PATH.sub("", each.message, 1) for each in self.problems if each.field == field_id]

    def count(self, section: FormSection) -> int:
        """Return the number of problems in a section of the form."""
        ids = {each.id for each in section.fields}
        return sum(problem.field in ids for problem in self.problems)


async def _posted(request: Request) -> Draft:
    """Read the page's form, whose fields are those of the job file's schema."""
    form = await request.form()

    def text(name: str) -> str:
        found = form.get(name)
        return found.replace("\r\n", "\n") if isinstance(found, str) else ""

    def fields(prefix: str) -> dict[str, list[str]]:
        return {
            name.removeprefix(prefix): [each for each in form.getlist(name) if isinstance(each, str) and each]
            for name in form
            if name.startswith(prefix)
        }

    return Draft(
        text("yaml"), text("spaces"), text("priority") or "0", text("key"), fields(_FIELD), fields(_SHOWN)
    )


Posted = Annotated[Draft, Depends(_posted)]
Name = Annotated[str | None, Query(max_length=64)]


@router.get("/submit", response_class=HTMLResponse)
def form(
    user: PageSubmitter,
    task: Name = None,
    data: Name = None,
    model: Name = None,
    space: Name = None,
    job: Annotated[str | None, Query(alias="from", max_length=32)] = None,
) -> str:
    """Show the form: for a task with its data and model, or as a copy of a job."""
    draft = Draft(_starting(task, data, model, space)) if job is None else _copied(user, job)
    return _page(user, draft, _checked(user, draft))


@router.post("/submit/check", response_class=HTMLResponse)
def check(user: PageSubmitter, draft: Posted) -> str:
    """Return the parts of the page that follow from a change in the form or in the text."""
    checked = _checked(user, draft)
    new = checked.values if checked.readable else {}
    return render(
        "submit_check.html",
        checked=checked,
        draft=draft,
        is_edited=checked.text != draft.text,
        is_other_form=checked.readable and _is_other_form(draft, checked),
        moved={
            path
            for path, now in new.items()
            if now not in (draft.values.get(path, []), draft.shown.get(path))
        },
    )


@router.post("/submit")
def submit(user: PageSubmitter, draft: Posted) -> Response:
    """Queue the job, and lead to its page; or show what is wrong with it."""
    checked = _checked(user, draft)
    if not checked.problems:
        try:
            return _submitted(user, draft, checked)
        except SpecError as error:  # of what has changed since the check
            checked = Checked(
                checked.text, checked.document, True, _problems(error.problems, checked.document)
            )
    return HTMLResponse(_page(user, draft, checked), 422)


def _submitted(user: PageSubmitter, draft: Draft, checked: Checked) -> Response:
    written = f"{checked.text}\0{draft.spaces}\0{draft.priority}"
    key = f"{draft.key[:32]}-{hashlib.sha256(written.encode()).hexdigest()[:32]}"
    job = user.user.jobs.submit_remote(checked.document, _spaces(draft.spaces), int(draft.priority), key)
    return RedirectResponse(f"/jobs/{job.id}", 303)


def _page(user: PageSubmitter, draft: Draft, checked: Checked) -> str:
    return render(
        "submit.html",
        user=user,
        page="Submit",
        draft=draft,
        checked=checked,
        points=STARTING_POINTS,
        jobs=user.user.jobs.job_page(_RECENT_JOBS),
    )


def _starting(task: str | None, data: str | None, model: str | None, space: str | None) -> str:
    """Return the job file to start from; names that the catalogue does not have are left out."""
    wanted = task if task in catalogue.TASKS else "image_classification"
    entry = catalogue.TASKS[str(wanted)]
    return starting_text(
        str(wanted),
        data if data in entry.datasets else None,
        model if model in entry.models else None,
        space if space in space_names() else None,
    )


def _copied(user: PageSubmitter, job_id: str) -> Draft:
    """Return a job as a draft. Raises NotFoundError."""
    jobs = user.user.jobs
    spec = stored_spec(jobs.job(job_id).spec)
    data = user.user.surroundings.settings.data
    return Draft(f"# Copy of job {job_id}\n{job_text(spec, data)}", spaces_text(spec, jobs.spaces(job_id)))


def _checked(user: PageSubmitter, draft: Draft) -> Checked:
    """Apply the changes of the form to the text, and check the job."""
    try:
        text = _revised(draft)
        document = _mapping(text, "job file")
    except SpecError as error:
        return Checked(draft.text, {}, False, tuple(Problem(each) for each in error.problems))
    problems: list[str] = []
    if not _is_priority(draft.priority):
        problems.append(
            f"priority: expected a whole number from -1000 to 1000, found {quoted(draft.priority)}"
        )
    try:
        spec = user.user.jobs.check_remote(document, _spaces(draft.spaces))
    except SpecError as error:
        return Checked(text, document, True, _problems([*problems, *error.problems], document))
    measured = user.user.jobs.measured_like(spec)
    return Checked(
        text,
        document,
        True,
        _problems(problems, document),
        tuple(_planned(spec)),
        tuple(about_time(spec, measured)),
    )


def _revised(draft: Draft) -> str:
    """Return the text with the changed fields of the form. Raises SpecError."""
    text, changed = draft.text, draft.changed
    if changed:
        _mapping(text, "job file", may_be_empty=True)
    for path in changed:
        text = with_field(text, path, draft.values.get(path, []))
    return text


def _mapping(text: str, what: str, *, may_be_empty: bool = False) -> dict[str, Any]:
    """Return the keys and values in a text of the page. Raises SpecError."""
    if len(text) > _LARGEST_TEXT:
        raise SpecError(
            what,
            [
                f"The {what} has {len(text):,} characters; this page takes {_LARGEST_TEXT:,}. Use `anon-tune submit` "
                "for a longer one."
            ],
        )
    if may_be_empty and not text.strip():
        return {}
    return yaml_mapping(text, what, remote=True)


def _spaces(text: str) -> dict[str, dict[str, Any]]:
    """Return the user's own search spaces by file name. Raises SpecError."""
    if not text.strip():
        return {}
    try:
        found = _mapping(text, "search spaces")
    except SpecError as error:
        raise SpecError("spaces", [f"spaces: {each}" for each in error.problems]) from None
    problems = [
        f"spaces.{name}: expected keys and values (optimizer: ..., parameters: ...), found {quoted(space)}"
        for name, space in found.items()
        if not isinstance(space, dict)
    ]
    if problems:
        raise SpecError("spaces", problems)
    return {str(name): space for name, space in found.items()}


def _is_priority(text: str) -> bool:
    return bool(re.fullmatch(r"-?[0-9]{1,4}", text)) and abs(int(text)) <= _HIGHEST_PRIORITY


def _problems(messages: Sequence[str], document: dict[str, Any]) -> tuple[Problem, ...]:
    """Return problems with the field that each belongs to: that of its key, or of the nearest key above."""
    if not messages:
        return ()
    ids = {each.path: each.id for section in form_sections(document) for each in section.fields}
    return tuple(Problem(message, _field_of(message, ids)) for message in messages)


def _field_of(message: str, ids: dict[str, str]) -> str | None:
    found = _PATH.match(message)
    path = found[1] if found else ""
    while path and path not in ids:
        path = path.rpartition(".")[0]
    return ids.get(path)


def _planned(spec: JobSpec) -> Sequence[PlannedPhase]:
    arms = len(spec.arms)
    return [PlannedPhase(phase, count // arms, count) for phase, count in spec.planned_trials().items()]


def _is_other_form(draft: Draft, checked: Checked) -> bool:
    """Return whether the job has other fields, or other choices, than the browser shows."""
    tasks = [draft.shown.get("task", []), checked.values.get("task", [])]
    return tasks[0] != tasks[1] or set(draft.shown) != set(checked.values)
