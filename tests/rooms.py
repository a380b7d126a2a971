"""The rooms of anon_tune, drawn from its imports: `python -m tests.rooms` prints the picture of docs/architecture.md.

A room is a package, or a group of single modules. An arrow leads from a room to one that it imports; arrows that
follow from others are left out.
"""

from __future__ import annotations

import re
from collections import defaultdict

import grimp
import networkx

from tests.sources import ROOT

PAGE = ROOT / "docs" / "architecture.md"

GROUPS = {
    "cli": {"__main__"},
    "start": {"api", "display", "doctor", "stack"},
    "words": {"console", "estimate", "export", "next_steps", "sentences", "snippets", "terminal_plot"},
    "mlflow": {"tracking"},
    "values": {"answer", "architecture", "catalogue", "documents", "records", "waiting"},
    "basics": {
        "code_archive",
        "disk_use",
        "errors",
        "local_service",
        "logs",
        "reachable",
        "ray_temp",
        "settings",
        "texts",
        "user_code",
    },
}
"""Rooms that are no package of their own, by what they hold."""


def room_of(module: str) -> str:
    """Return the room of a module, by its dotted name."""
    parts = [*module.split(".")[1:], "__init__"]
    if parts[0] == "workers":
        return f"workers/{parts[1]}"
    name = "anon_tune" if parts[0] == "__init__" else parts[0]
    return next((room for room, names in GROUPS.items() if name in names), name)


def arrows() -> dict[tuple[str, str], int]:
    """Return how many imports lead from one room to another."""
    graph = grimp.build_graph("anon_tune")
    found: dict[tuple[str, str], int] = defaultdict(int)
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            pair = room_of(module), room_of(imported)
            if pair[0] != pair[1]:
                found[pair] += 1
    return dict(found)


def picture() -> str:
    """Return the rooms and the arrows between them as a Mermaid flow chart."""
    reduced = networkx.transitive_reduction(networkx.DiGraph(list(arrows())))
    names = sorted(reduced.nodes)
    boxes = [f"  {_key(name)}[{name}]" for name in names]
    lines = [f"  {_key(one)} --> {_key(other)}" for one, other in sorted(reduced.edges)]
    return "\n".join(["flowchart TD", *boxes, *lines])


def members() -> str:
    """Return the lines of the table of rooms."""
    modules: dict[str, set[str]] = defaultdict(set)
    for module in grimp.build_graph("anon_tune").modules:
        parts = module.split(".")[1:]
        if parts and room_of(module) in GROUPS:
            modules[room_of(module)].add(parts[0])
    lines = [
        f"| {room} | {', '.join(f'`{name}`' for name in sorted(names))} |" for room, names in modules.items()
    ]
    return "\n".join(sorted(lines))


def drawn() -> str:
    """Return the picture that the page shows."""
    found = re.search(r"```mermaid\n(flowchart TD\n.*?)\n```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return found[1] if found else ""


def _key(name: str) -> str:
    return name.replace("/", "_")


if __name__ == "__main__":
    print(picture(), members(), sep="\n\n")
