"""Time of a step of Anon, relative to torch's fused AdamW.

    python -m benchmarks.optimizer_step [--device cuda] [--threads 1] [--processes 7] [--rounds 48] [--long 1000]

Fresh processes, one after the other; in each, all optimizers take turns step by step, so that a busy machine
slows them alike. A figure is the median over the processes of the median over the rounds of
(time of a step) / (time of fused AdamW's step in the same round), with the lowest and highest process behind it.
Steps are whole `optimizer.step()` calls; nothing is flattened or prepared outside them.

The last table is of `--long` steps, on CPU, with an operation of torch on all threads before each, as a model has:
sums with all refreshes, medians, and the slowest steps.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from anon_tune.optim import Anon, Delay

SHAPES = {"16 x 1M": (16, (1000, 1000)), "200 x 64x64": (200, (64, 64))}
BASE = "AdamW fused"
Make = Callable[[list[Tensor]], torch.optim.Optimizer]
CONTENDERS: dict[str, Make] = {
    BASE: lambda p: torch.optim.AdamW(p, lr=1e-4, weight_decay=0.01, fused=True),
    "Anon fused, gamma 1.15": lambda p: Anon(p, lr=1e-4, weight_decay=0.01, gamma=1.15, fused=True),
    "Anon fused, gamma 0": lambda p: Anon(p, lr=1e-4, weight_decay=0.01, gamma=0.0, fused=True),
    "Anon default, gamma 0, no decay": lambda p: Anon(p, lr=1e-4, gamma=0.0),
    "AdamW foreach": lambda p: torch.optim.AdamW(p, lr=1e-4, weight_decay=0.01, foreach=True),
    "Anon foreach, gamma 1.15": lambda p: Anon(p, lr=1e-4, weight_decay=0.01, gamma=1.15, foreach=True),
    "Anon single, gamma 1.15": lambda p: Anon(p, lr=1e-4, weight_decay=0.01, gamma=1.15, foreach=False),
}
BYTES = {
    BASE: 28,
    "Anon fused, gamma 1.15": 32,
    "Anon fused, gamma 0": 20,
    "Anon default, gamma 0, no decay": 20,
    "Anon foreach, gamma 1.15": 44,  # in two passes
}
"""Bytes that a step must read and write per float32 parameter."""

REFRESHES: dict[str, Make] = {
    "refresh, fused": lambda p: Anon(p, lr=1e-4, gamma=1.15, delay="every:1", fused=True),
    "refresh, fused, floor 0.03": lambda p: Anon(
        p, lr=1e-4, gamma=1.15, delay="every:1", floor=0.03, fused=True
    ),
    "refresh, foreach": lambda p: Anon(p, lr=1e-4, gamma=1.15, delay="every:1", foreach=True),
}
"""Every step of these is a refresh."""

WAITING: dict[str, Make] = {
    "one coordinate never had a gradient, fused": CONTENDERS["Anon fused, gamma 1.15"],
    "one coordinate never had a gradient, foreach": CONTENDERS["Anon foreach, gamma 1.15"],
}
"""In each tensor of these one coordinate waits for its first gradient."""

OTHERS = {**REFRESHES, **WAITING}
"""They have processes of their own: with ten models at once, all are slow."""

OTHER = " others"

WARM_UP = 5  # five steps hold the three kinds: the first, a refresh, a plain one
LONG: dict[str, Make] = {
    BASE: CONTENDERS[BASE],
    "Anon fused": lambda p: Anon(p, lr=1e-4, weight_decay=0.01, gamma=1.15, fused=True),
    "Anon fused, delay 1.1": lambda p: Anon(p, lr=1e-4, weight_decay=0.01, gamma=1.15, delay=1.1, fused=True),
}
ENTRIES = 900_000


def optimizers(shape: str, device: str, contenders: dict[str, Make]) -> dict[str, torch.optim.Optimizer]:
    count, size = SHAPES[shape]
    generator = torch.Generator(device).manual_seed(0)
    made = {}
    for name, make in contenders.items():
        params = [
            torch.randn(size, device=device, generator=generator).requires_grad_() for _ in range(count)
        ]
        for p in params:
            p.grad = torch.randn(size, device=device, generator=generator)
            # By chance randn gives 0 once in some million entries, and to wait for a gradient has lines of its own.
            p.grad[p.grad == 0] = 1.0
            if name in WAITING:
                p.grad[0, 0] = 0.0
        made[name] = make(params)
    return made


def seconds(work: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def copy_bandwidth(device: str) -> float:
    """Return the bytes per second of a copy of 256 MiB, read and written."""
    source = torch.randn(2**26, device=device)
    target = torch.empty_like(source)
    times = [seconds(lambda: target.copy_(source), device) for _ in range(10)]
    return 2 * source.nbytes / statistics.median(times)


def measure(shape: str, device: str, rounds: int) -> dict[str, object]:
    """Return one process's results: ratios per contender, the cold start, the state's bytes per parameter."""
    others = shape.endswith(OTHER)
    shape = shape.removesuffix(OTHER)
    made = optimizers(shape, device, {BASE: CONTENDERS[BASE], **OTHERS} if others else CONTENDERS)
    cold = {
        name: sum(seconds(optimizer.step, device) for _ in range(WARM_UP)) for name, optimizer in made.items()
    }
    times: dict[str, list[float]] = {name: [] for name in made}
    delay = Delay.parse(2.0)
    shuffled = random.Random(0)
    for t in range(WARM_UP + 1, WARM_UP + 1 + rounds):
        # In a new order each time, so that no contender always follows the same one.
        order = shuffled.sample([*made.items()], len(made))
        spent = {name: seconds(optimizer.step, device) for name, optimizer in order}
        if delay.is_refresh(t):
            continue
        for name, value in spent.items():
            times[name].append(value)
    base = statistics.median(times[BASE])
    ratios = {
        name: statistics.median(a / b for a, b in zip(values, times[BASE], strict=True))
        for name, values in times.items()
    }
    entries = SHAPES[shape][0] * SHAPES[shape][1][0] * SHAPES[shape][1][1]
    state = {
        name: sum(t.nbytes for s in o.state.values() for key, t in s.items() if key != "step") / entries
        for name, o in made.items()
    }
    bandwidth = copy_bandwidth(device)
    shares = {
        name: BYTES[name] * entries / statistics.median(times[name]) / bandwidth
        for name in BYTES
        if device == "cuda" and name in made
    }
    return {"ratios": ratios, "cold": cold, "state": state, "base": base, "shares": shares}


def measure_long(steps: int) -> dict[str, dict[str, float]]:
    """Steps beside other work of torch's threads: sum, median, 99th percentile and longest of each contender, ms."""
    generator = torch.Generator().manual_seed(0)
    made = {}
    for name, make in LONG.items():
        p = torch.randn(ENTRIES, generator=generator).requires_grad_()
        p.grad = torch.randn(ENTRIES, generator=generator)
        made[name] = make([p])
    a, b = torch.randn(ENTRIES), torch.empty(ENTRIES)
    for _ in range(WARM_UP):
        for optimizer in made.values():
            optimizer.step()
    times: dict[str, list[float]] = {name: [] for name in made}
    shuffled = random.Random(0)
    for _ in range(steps):
        for name, optimizer in shuffled.sample([*made.items()], len(made)):
            torch.sin(a, out=b)
            times[name].append(1e3 * seconds(optimizer.step, "cpu"))
    return {
        name: {
            "sum": sum(values),
            "median": statistics.median(values),
            "99%": sorted(values)[math.ceil(0.99 * steps) - 1],
            "longest": max(values),
        }
        for name, values in times.items()
    }


def in_fresh_process(shape: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run `measure`, or `measure_long` for "long", in a process of its own."""
    # Each step of the others counts, where each refresh of a contender is left out, and they are slow.
    rounds = options.rounds // 3 if shape.endswith(OTHER) else options.rounds
    command = [
        sys.executable,
        "-m",
        "benchmarks.optimizer_step",
        "--child",
        shape,
        "--long",
        str(options.long),
    ]
    command += [
        "--device",
        options.device,
        "--rounds",
        str(rounds),
        "--threads",
        str(options.threads),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def describe_machine(device: str) -> str:
    where = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123
            model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{model}, {where}; Python {platform.python_version()}, torch {torch.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--processes", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=48, help="steps of each optimizer in each process")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch, on CPU")
    parser.add_argument("--long", type=int, default=1000, help="steps of the longer tables")
    parser.add_argument(
        "--child",
        choices=[*SHAPES, *(shape + OTHER for shape in SHAPES), "long"],
        help=argparse.SUPPRESS,
    )
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device; run with --device cpu")
    torch.set_num_threads(options.threads)
    if options.child == "long":
        print(json.dumps(measure_long(options.long)))
        return
    if options.child:
        print(json.dumps(measure(options.child, options.device, options.rounds)))
        return

    print(describe_machine(options.device), flush=True)
    for shape in SHAPES:
        found = [in_fresh_process(shape, options) for _ in range(options.processes)]
        others = [in_fresh_process(shape + OTHER, options) for _ in range(options.processes)]
        base = statistics.median(f["base"] for f in found)
        print(f"\n{shape}, float32; AdamW fused {1e3 * base:.2f} ms a step\n")
        print(
            "| step | time / AdamW fused | lowest .. highest of the processes | floor by bytes | state, bytes |"
        )
        print("|---|---|---|---|---|")
        for name in [*CONTENDERS, *OTHERS]:
            of = found if name in CONTENDERS else others
            values = [f["ratios"][name] for f in of]
            floor = f"{BYTES[name] / BYTES[BASE]:.3f}" if name in BYTES else ""
            state = f"{of[0]['state'][name]:.0f}"
            spread = f"{min(values):.2f} .. {max(values):.2f}"
            print(f"| {name} | {statistics.median(values):.2f} | {spread} | {floor} | {state} |")
        sys.stdout.flush()  # The next shape takes minutes.
        cold = statistics.median(f["cold"]["Anon fused, gamma 1.15"] for f in found)
        print(f"\nfirst {WARM_UP} steps of Anon fused, compiler included: {cold:.2f} s")
        for name in BYTES if options.device == "cuda" else ():
            share = statistics.median(f["shares"][name] for f in found)
            print(f"{name}: {100 * share:.0f}% of the measured copy bandwidth")
    if options.device == "cpu":
        print_long([in_fresh_process("long", options) for _ in range(options.processes)], options.long)
    if options.device == "cpu" and not torch.cuda.is_available():
        print("\nCUDA: not measured, no device")


def print_long(found: list[dict[str, dict[str, float]]], steps: int) -> None:
    print(
        f"\n{steps} steps of {ENTRIES:,} entries, each after an operation on all threads; over AdamW fused\n"
    )
    figures = list(found[0][BASE])
    print("| | " + " | ".join(f"{name}, lowest .. highest" for name in figures) + " |")
    print("|---" * (len(figures) + 1) + "|")
    for name in LONG:
        cells = []
        for figure in figures:
            ratios = sorted(f[name][figure] / f[BASE][figure] for f in found)
            cells.append(f"{statistics.median(ratios):.2f}, {ratios[0]:.2f} .. {ratios[-1]:.2f}")
        print(f"| {name} | " + " | ".join(cells) + " |")
    for figure in figures[1:]:
        print(f"AdamW fused, {figure}: {statistics.median(f[BASE][figure] for f in found):.2f} ms")


if __name__ == "__main__":
    main()
