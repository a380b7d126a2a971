"""Trials and reports as files: CSV and Parquet, from a ledger and from a service."""

from __future__ import annotations

import csv
import datetime
import io
import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pandas
import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from anon_tune.cli import app
from anon_tune.errors import InputError, NotFoundError
from anon_tune.jobs import files
from anon_tune.jobs.files import write_table
from anon_tune.jobs.ledger import LedgerJobs
from anon_tune.ledger import Ledger
from anon_tune.settings import Settings
from anon_tune.views import ReportView, TrialView, trial_view
from tests import builders
from tests.service.conftest import Serve

Write = Callable[..., Path]


@pytest.fixture(params=["here", "service"])
def write(request: pytest.FixtureRequest, serve: Serve, tmp_path: Path) -> Write:
    """Runs `anon-tune trials JOB -o`, on the ledger or on a service that has it."""
    before = ["--server", serve()] if request.param == "service" else []

    def run(job: str, name: str, *options: str) -> Path:
        path = tmp_path / name
        result = CliRunner().invoke(app, [*before, "trials", job, "-o", str(path), *options])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        assert not result.stdout
        return path

    return run


def test_trials_are_written_as_csv_and_parquet(write: Write, ledger: Ledger, done: str):
    trials = ledger.jobs.get(done, trials=True).trials
    table = pyarrow.parquet.read_table(write(done, "trials.parquet"))
    assert table["id"].to_pylist() == [trial.id for trial in trials]
    assert table["value"].to_pylist() == [trial.value for trial in trials]
    assert table["betas"].to_pylist() == [trial.hyperparameters.get("betas") for trial in trials]
    types = {field.name: str(field.type) for field in table.schema}
    assert types["seed"] == "int64"
    assert types["gamma"] == types["value"] == "double"
    assert types["state"] == types["source"] == "string"
    assert types["betas"].startswith("list<")
    frame = pandas.read_csv(write(done, "trials.csv"))
    assert list(frame) == table.column_names
    assert frame["gamma"].isna().sum() == sum(trial.arm != "anon" for trial in trials)
    assert set(frame["state"]) == {"COMPLETE", "FAILED"}


def test_reports_are_written_as_csv_and_parquet(write: Write, ledger: Ledger, done: str):
    trials = ledger.jobs.get(done, trials=True).trials
    reports = [(trial.id, report) for trial in trials for report in trial.reports]
    path = write(done, "reports.parquet", "--reports")
    table = pyarrow.parquet.read_table(path)
    assert str(table.schema.field("time").type) == "timestamp[us, tz=UTC]"
    assert table["time"].to_pylist() == [report.time for _, report in reports]
    assert table["metrics.loss"].to_pylist() == [report.value for _, report in reports]
    frame = pandas.read_csv(write(done, "reports.csv", "--reports"), parse_dates=["time"])
    assert frame["time"].tolist() == [report.time for _, report in reports]
    pandas.testing.assert_frame_equal(
        frame.astype({"time": "datetime64[us, UTC]"}), pandas.read_parquet(path), check_dtype=False
    )
    one = write(done, "one.csv", "--reports", "--trial", trials[0].id)
    assert len(pandas.read_csv(one)) == len(trials[0].reports)


def test_all_times_in_csv_are_written_alike(tmp_path: Path):
    whole = builders.EPOCH.replace(microsecond=0)
    times = [whole, whole + datetime.timedelta(milliseconds=1)]
    rows = [{"trial": "a", "step": step, "time": time} for step, time in enumerate(times)]
    write_table(tmp_path / "x.csv", rows, ReportView.columns())
    assert pandas.read_csv(tmp_path / "x.csv", parse_dates=["time"])["time"].tolist() == times


def test_the_file_is_that_of_the_data_frame(write: Write, ledger: Ledger, settings: Settings, done: str):
    frame = LedgerJobs(ledger, settings).trials(done)
    written = pandas.read_parquet(write(done, "trials.parquet"))
    assert list(written) == list(frame)
    assert written["gamma"].equals(frame["gamma"])


def test_a_job_without_trials_has_columns_with_their_types(tmp_path: Path):
    for view in (TrialView, ReportView):
        write_table(tmp_path / "x.parquet", [], view.columns())
        table = pyarrow.parquet.read_table(tmp_path / "x.parquet")
        assert table.num_rows == 0
        assert table.column_names == list(view.columns())
        write_table(tmp_path / "x.csv", [], view.columns())
        assert (tmp_path / "x.csv").read_text() == ",".join(view.columns()) + "\n"
    assert str(table.schema.field("time").type) == "timestamp[us, tz=UTC]"
    assert str(table.schema.field("value").type) == "double"


def test_a_hyperparameter_does_not_hide_a_column():
    trial = trial_view(builders.trial(3, value=0.5, hyperparameters={"seed": 9, "lr": 0.1}))
    row = trial.row()
    assert (row["seed"], row["hyperparameters.seed"], row["lr"]) == (3, 9, 0.1)
    assert list(row)[: len(TrialView.columns())] == list(TrialView.columns())


MIXED: list[dict[str, Any]] = [
    {"a": 1, "b": True, "c": "x", "d": [1, 0.5], "e": None},
    {"a": 0.1 + 0.2, "b": None, "c": 2, "d": None, "e": ["x", None], "f": 3},
    {"a": None, "b": False, "c": 'say "λ",\n', "d": [], "e": None, "f": None, "g": builders.EPOCH},
]


def test_types_come_from_all_rows(tmp_path: Path):
    path = tmp_path / "x.parquet"
    write_table(path, MIXED, {"a": float})
    table = pyarrow.parquet.read_table(path)
    assert table["a"].to_pylist() == [1.0, 0.1 + 0.2, None]
    assert table["b"].to_pylist() == [True, None, False]
    assert table["c"].to_pylist() == ["x", "2", 'say "λ",\n']
    assert table["d"].to_pylist() == [[1.0, 0.5], None, []]
    assert table["e"].to_pylist() == [None, '["x", null]', None]
    assert table["f"].to_pylist() == [None, 3, None]
    assert table["g"].to_pylist() == [None, None, builders.EPOCH]
    write_table(tmp_path / "x.csv", MIXED, {"a": float})
    header, *rows = csv.reader(io.StringIO((tmp_path / "x.csv").read_text(encoding="utf-8")))
    assert header == list("abcdefg")
    assert rows[1] == ["0.30000000000000004", "", "2", "", '["x", null]', "3", ""]
    assert rows[2][2] == 'say "λ",\n'
    assert json.loads(rows[0][3]) == [1, 0.5]
    assert datetime.datetime.fromisoformat(rows[2][6]) == builders.EPOCH


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_file_is_replaced_when_the_new_one_is_complete(ending: str, tmp_path: Path):
    path = tmp_path / f"x{ending}"

    def broken() -> Iterator[dict[str, Any]]:
        yield {"a": 1}
        raise ConnectionError("the service was stopped")

    write_table(path, [{"a": 1}], {"a": int})
    before = path.read_bytes()
    with pytest.raises(ConnectionError):
        write_table(path, broken(), {"a": int})
    assert path.read_bytes() == before
    write_table(path, [{"a": 2}], {"a": int})
    assert path.read_bytes() != before
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == (tmp_path.stat().st_mode & 0o777 | 0o444) & 0o644


def test_files_that_cannot_be_written_are_refused(write: Write, done: str, tmp_path: Path):
    with pytest.raises(InputError, match=r"x.xlsx: the file's ending must be .csv or .parquet"):
        write(done, "x.xlsx")
    with pytest.raises(InputError, match=r"cannot be written .* Choose another file"):
        write(done, "none/x.csv")
    with pytest.raises(InputError, match="Give only one of --csv, --json and -o"):
        write(done, "x.csv", "--json")
    with pytest.raises(NotFoundError):
        write("nojob", "x.csv", "--reports")
    assert not [path for path in tmp_path.iterdir() if "x." in path.name]


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_many_rows_take_little_memory(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "_BATCH", 500)

    def peak(count: int) -> int:
        rows = ({"trial": f"t{n}", "step": n, "value": n / 7, "time": builders.EPOCH} for n in range(count))
        tracemalloc.start()
        write_table(tmp_path / f"x{ending}", rows, ReportView.columns())
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(10)  # what is loaded once
    assert peak(8000) < 2 * peak(1000)


# Downloads


def test_a_service_sends_tables_as_csv(serve: Serve, done: str, write: Write):
    with httpx2.Client(base_url=f"{serve()}/api/v1/jobs", timeout=60) as http:
        for what, options in (("trials", []), ("reports", ["--reports"])):
            answer = http.get(f"/{done}/{what}.csv")
            assert answer.headers["content-type"] == "text/csv; charset=utf-8"
            assert answer.headers["content-disposition"] == f'attachment; filename="{done}-{what}.csv"'
            assert answer.text == write(done, f"{what}.csv", *options).read_text(encoding="utf-8")
            assert http.get(f"/nojob/{what}.csv").status_code == 404
