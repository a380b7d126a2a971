"""Results of a process of user code as lines of JSON: nothing that comes from there is unpickled."""

from __future__ import annotations

import json

from pydantic import TypeAdapter

from anon_tune.workers.trial.messages import CheckUpRun, Reply, Result

__all__ = ["from_line", "from_reply", "to_line", "to_reply"]

_RESULTS: TypeAdapter[Result | CheckUpRun] = TypeAdapter(Result | CheckUpRun)


def to_line(result: Result | CheckUpRun) -> bytes:
    """Return a result as a line, without the newline."""
    return json.dumps(_RESULTS.dump_python(result, mode="json")).encode()


def from_line(line: bytes) -> Result | CheckUpRun:
    """Return the result of `to_line`.

    Raises:
        ValueError: The line is not one.
    """
    return _RESULTS.validate_python(json.loads(line))


def to_reply(reply: Reply) -> bytes:
    """Return a reply as a line, without the newline."""
    return json.dumps({"goes_on": reply.goes_on}).encode()


def from_reply(line: bytes) -> Reply:
    """Return the reply of `to_reply`; an empty line, from a supervisor that has gone, stops the training."""
    return Reply(**json.loads(line)) if line else Reply(goes_on=False)
