"""The nodes of a Ray cluster: whether trials can run there, measured by a small task on each."""

from __future__ import annotations

import contextlib
import platform
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = [
    "Node",
    "Seen",
    "code_problem",
    "look_at",
    "nodes",
    "storage_problem",
    "version_problem",
    "versions_here",
]

_PACKAGES = ("ray", "torch", "anon_tune")
_PATIENCE_SECONDS = 60.0  # a busy node takes long to start a process
_APPEAR_SECONDS = 5.0  # until a new file is seen through a network file system
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Node:
    """A node of the cluster that is alive.

    Attributes:
        id: Ray's id.
        address: Its address, for people.
        resources: What it has in all, by Ray's names: CPU, GPU.
    """

    id: str
    address: str
    resources: Mapping[str, float]

    @property
    def trains(self) -> bool:
        """Whether it has CPUs for trials."""
        return self.resources.get("CPU", 0) > 0


@dataclass(frozen=True)
class Seen:
    """Findings of the task on a node.

    Attributes:
        node: The node.
        error: Reason for which the task did not run; None if it did.
        versions: Version of each package there.
        reads: Whether it read the file that this process had written.
        writes: Whether this process read the file that it had written.
        has_code: Whether the folder of code is there.
    """

    node: Node
    error: str | None = None
    versions: Mapping[str, str] | None = None
    reads: bool = False
    writes: bool = False
    has_code: bool = True


def nodes() -> list[Node]:
    """Return the nodes that are alive, of the cluster that this process is connected to."""
    import ray

    return [
        Node(node["NodeID"], node["NodeManagerAddress"], node["Resources"])
        for node in ray.nodes()
        if node["Alive"]
    ]


def versions_here() -> dict[str, str]:
    """Return the versions of this process that all nodes must have; torch without the name of its build."""
    installed = {package: metadata.version(package).partition("+")[0] for package in _PACKAGES}
    return {"python": platform.python_version(), **installed}


def look_at(each: Sequence[Node], storage: Path, code: Path | None = None) -> list[Seen]:
    """Run a task on each node and return its findings.

    Args:
        each: The nodes.
        storage: Folder that the nodes must share with this process; files are written there and deleted again.
        code: Folder of code that must be there; None for none.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    token = f".reach-{secrets.token_hex(8)}"
    mark = storage / token
    storage.mkdir(parents=True, exist_ok=True)
    mark.write_text(token)
    task = ray.remote(num_cpus=0, max_retries=0)(_task())
    try:
        asked = {
            task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(
                str(mark), node.id, None if code is None else str(code)
            ): node
            for node in each
        }
        ray.wait(list(asked), num_returns=len(asked), timeout=_PATIENCE_SECONDS)
        return [_seen(node, reference, mark) for reference, node in asked.items()]
    finally:
        for path in storage.glob(f"{token}*"):
            with contextlib.suppress(OSError):
                path.unlink()


def _task() -> Callable[[str, str, str | None], tuple[dict[str, str], bool, bool]]:
    """Return the task, which travels as a whole: a node may have another anon_tune or none."""
    packages = _PACKAGES

    def look(mark: str, node: str, code: str | None) -> tuple[dict[str, str], bool, bool]:
        import contextlib
        import platform
        from importlib import metadata
        from pathlib import Path

        versions = {"python": platform.python_version()}
        for package in packages:
            with contextlib.suppress(metadata.PackageNotFoundError):
                versions[package] = metadata.version(package).partition("+")[0]
        reads = False
        with contextlib.suppress(OSError):
            reads = Path(mark).read_text() in mark
            Path(f"{mark}.{node}").touch()
        return versions, reads, code is None or Path(code).is_dir()

    return look


def _seen(node: Node, reference: Any, mark: Path) -> Seen:
    import ray

    try:
        versions, reads, has_code = ray.get(reference, timeout=0)
    except ray.exceptions.GetTimeoutError:
        return Seen(node, f"it did not answer in {_PATIENCE_SECONDS:.0f} s")
    except ray.exceptions.RayError as error:
        return Seen(node, str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__)
    return Seen(node, None, versions, reads, _appears(mark.with_name(f"{mark.name}.{node.id}")), has_code)


def _appears(path: Path) -> bool:
    limit = time.monotonic() + _APPEAR_SECONDS
    while not (found := path.exists()) and time.monotonic() < limit:
        time.sleep(_POLL_SECONDS)
    return found


def version_problem(seen: Iterable[Seen], here: Mapping[str, str]) -> str | None:
    """Return which nodes have other versions than this process, and what to do; None if all agree."""
    others = [
        f"{each.node.address} has {name} {each.versions.get(name, 'not at all')}"
        for each in seen
        if each.versions is not None
        for name, version in here.items()
        if each.versions.get(name) != version
    ]
    if not others:
        return None
    own = ", ".join(f"{name} {version}" for name, version in here.items())
    return (
        f"the nodes have different versions: {'; '.join(others)}, and this machine has {own}. Install the same "
        "versions on all nodes (requirements.lock) and start Ray there again"
    )


def storage_problem(seen: Iterable[Seen], storage: Path) -> str | None:
    """Return which nodes do not share a folder with this process, and what to do; None if all do."""
    without = [
        each.node.address for each in seen if each.versions is not None and not (each.reads and each.writes)
    ]
    if not without:
        return None
    return (
        f"{storage} is not shared with {', '.join(without)}, where trials could not continue from their checkpoints. "
        "Set ANON_TUNE_HOME to a folder that all nodes share, at the same path, and that trials may write to"
    )


def code_problem(seen: Iterable[Seen], code: Path | None) -> str | None:
    """Return which nodes lack the folder of code, and what to do; None if all have it."""
    without = [each.node.address for each in seen if each.versions is not None and not each.has_code]
    if not without:
        return None
    return (
        f"{code}, the folder of the job's code, is too large to be sent to the nodes, and {', '.join(without)} lacks "
        "it. Put data elsewhere (ANON_TUNE_DATA), so that the folder has code alone"
    )
