"""A notebook, run by a real kernel: the live table of `tune`, and what `result` shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

pytestmark = pytest.mark.slow

TUNE = """
import torch
from anon_tune import tune

def train(context, start=1.0):
    weight = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(weight.weight, start)
    optimizer = context.optimizer(weight)
    for step in range(1, context.epochs + 1):
        optimizer.zero_grad()
        loss = (weight(torch.rand(1, 1) + 0.5) - 3).square().sum()
        loss.backward()
        optimizer.step()
        context.report(step, loss=loss.item())
    if context.tests:
        context.test(loss=loss.item())

small = {"confirm": {"finalists": 1, "seeds": 1, "verdict_seeds": 2}, "search": {"sampler": "random"}}
result = tune(train, trials=5, epochs=2, arms=["anon", "sgd"], **small)
"""


@pytest.mark.usefixtures("unset")
def test_a_notebook_shows_the_table_the_report_and_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ANON_TUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.chdir(tmp_path)
    sources = [TUNE, "result", 'result.plot("response")', "result  # again", 'result.plot("nothing")']
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    client = nbclient.NotebookClient(book, timeout=500, kernel_name="python3", allow_errors=True)
    client.execute()
    tuned, shown, plotted, again, wrong = ([dict(each) for each in cell.outputs] for cell in book.cells)
    assert not [each for each in (*tuned, *shown, *plotted, *again) if each["output_type"] == "error"]

    (table,) = [text_of(each) for each in tuned if each["output_type"] == "display_data"]
    lines = table.splitlines()
    assert "SUCCEEDED after" in lines[0], "one output, updated to the end"
    assert [line.split()[0] for line in lines[2:5]] == ["arm", "anon", "sgd"]
    assert "over gamma, search trials of anon" in table

    (first,), (second,) = shown, again
    assert text_of(first).startswith("<Result of job ")
    for output in (first, second):
        assert "What to do next" in output["data"]["text/html"]
        assert 'class="chart"' in output["data"]["text/html"]
    assert len(second["data"]["text/html"]) < 100_000 < len(first["data"]["text/html"]) < 3_000_000
    (figure,) = plotted
    assert "application/vnd.plotly.v1+json" in figure["data"]
    assert wrong[0]["ename"] == "InputError"
    assert "response" in wrong[0]["evalue"]


def text_of(output: dict[str, Any]) -> str:
    return str(output["data"]["text/plain"])
