"""The README and the pages of docs/ against the code: tree, rooms, commands, settings, job file, snippets, links."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

import pytest
import torch
import typer
import yaml

from anon_tune.cli import app
from anon_tune.export import render
from anon_tune.search_spaces import Space, load_space
from anon_tune.settings import Settings
from anon_tune.spec import parse_spec
from tests import job_keys, rooms
from tests.sources import ROOT, needs_git, tracked

PAGES = {path.name: path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}


def block(page: str, language: str, containing: str) -> str:
    (found,) = [b for b in re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.DOTALL) if containing in b]
    return found


@needs_git
def test_tree_names_what_exists() -> None:
    tree = block("architecture.md", "text", "pyproject.toml")
    top = {line.split()[0].rstrip("/") for line in tree.splitlines() if line and not line.startswith(" ")}
    assert all((ROOT / name).exists() for name in top)
    real = {path.split("/")[0] for path in tracked() if not path.startswith(".")}
    assert real == top
    inside = tree.split("anon_tune/  ", 1)[1].split("search_spaces/")[0]
    for name in re.findall(r"(?<=\s)([a-z_]+(?:\.py|/))(?=\s)", inside):
        assert (ROOT / "anon_tune" / name).exists(), name
    modules = {path.split("/")[1] for path in tracked() if path.startswith("anon_tune/")}
    modules -= {"__init__.py", "__main__.py", "py.typed", "workers", "dashboards", "search_spaces"}
    assert modules == {name.rstrip("/") for name in re.findall(r"(?<=\s)([a-z_]+(?:\.py|/))(?=\s)", inside)}


@pytest.mark.skipif(not (ROOT / "anon_tune" / "workers").is_dir(), reason="needs the links of a checkout")
def test_the_rooms_are_drawn_as_the_imports_are() -> None:
    assert rooms.drawn() == rooms.picture(), "run `python -m tests.rooms`, and put the picture into the page"
    assert rooms.members() in PAGES["architecture.md"]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    folder = ROOT if page == "README.md" else ROOT / "docs"
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL))
    for path, _, anchor in (link.partition("#") for link in links if "://" not in link):
        target = folder / path if path else folder / page
        assert target.exists(), path
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in {
                re.sub(r"[^\w -]", "", each).strip().lower().replace(" ", "-") for each in headings
            }, anchor


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (line,) = re.findall(r"^Makefile +the commands: (.*)$", PAGES["architecture.md"], re.MULTILINE)
    for target in line.split(", "):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_command_is_in_the_table() -> None:
    command = typer.main.get_command(app)
    names = {name for name, found in command.commands.items() if not found.hidden}  # type: ignore[attr-defined]
    table = PAGES["commands.md"].split("## Commands")[1].split("## Settings")[0]
    documented = set(re.findall(r"`anon-tune ([a-z]+)", table))
    assert documented == names
    for group in ("mlflow", "token", "db"):
        for name in command.commands[group].commands:  # type: ignore[attr-defined]
            assert f"`anon-tune {group} {name}" in table


def test_every_setting_is_in_the_table() -> None:
    table = PAGES["commands.md"].split("## Settings")[1]
    documented = set(re.findall(r"`([A-Z_]+)`", table))
    assert documented == {field.validation_alias for field in Settings.model_fields.values()}


def test_job_file_is_valid_and_complete() -> None:
    parse_spec(yaml.safe_load(block("README.md", "yaml", "task: image_classification")))
    data = yaml.safe_load(block("job-file.md", "yaml", "task: image_classification"))
    spec = parse_spec(data)
    left_out = {"folder", "arguments", "spaces", "command"}  # by the file; of functions; by `arms`; or `task`
    assert set(data) == set(type(spec).model_fields) - left_out


def test_every_key_of_the_job_file_is_in_the_table() -> None:
    assert job_keys.table() in PAGES["job-file.md"], (
        "run `python -m tests.job_keys`, and put the table into the page"
    )


@pytest.mark.parametrize(
    ("key", "folder"), [("task: train:train", "plain_torch"), ("command: python train.py", "script")]
)
def test_the_job_file_of_own_training_is_the_example(key: str, folder: str) -> None:
    written = block("bring-your-own.md", "yaml", key)
    example = ROOT / "examples" / "bring_your_own" / folder / "job.yaml"
    assert yaml.safe_load(written) == yaml.safe_load(example.read_text())


def test_the_space_of_an_optimizer_of_ones_own_is_valid_and_names_the_example() -> None:
    space = Space.model_validate(yaml.safe_load(block("bring-your-own.md", "yaml", "optimizer: optimizers:")))
    example = ROOT / "examples" / "bring_your_own" / "optimizers" / "muon.yaml"
    assert space.optimizer == load_space(str(example)).optimizer


def test_export_snippet_trains(tmp_path: Path, monkeypatch) -> None:
    document = {
        "version": 1,
        "optimizer": "anon",
        "hyperparameters": {
            "lr": 0.05,
            "betas": [0.9, 0.999, 0.5],
            "gamma": 0.5,
            "delay": 2.0,
            "floor": 0.03,
        },
    }
    (tmp_path / "best.yaml").write_text(render(document, "yaml"))
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 1)
    names = {"model": model}
    exec(block("README.md", "python", "load_optimizer"), names)
    x, y = torch.randn(64, 8), torch.randn(64, 1)
    losses = []
    for _ in range(50):
        loss = (model(x) - y).square().mean()
        names["optimizer"].zero_grad()
        loss.backward()
        names["optimizer"].step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("example", ["script", "plain_torch", "lightning", "hugging_face"])
def test_the_difference_to_a_plain_script_is_all_of_it_and_small(example: str) -> None:
    folder = ROOT / "examples" / "bring_your_own" / example
    plain, tuned = ((folder / name).read_text().splitlines() for name in ("plain.py", "train.py"))
    changes = [line for line in difflib.ndiff(plain, tuned) if line.startswith("+ ") and '"""' not in line]
    ours = [f"+{line[2:]}" for line in changes if line.strip() != "+"]
    assert len(ours) <= 10
    shown = [
        re.findall(r"^\+.+$", each, re.MULTILINE)
        for each in re.findall(r"```diff\n(.*?)```", PAGES["bring-your-own.md"], re.DOTALL)
    ]
    assert ours in shown
