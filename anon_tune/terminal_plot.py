"""Plot of a job's response in characters: the objective of Anon's search trials over gamma."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions
from rich.text import Text

from anon_tune.answer import Answer
from anon_tune.records import Phase, TrialState
from anon_tune.sentences import amount, is_quiet
from anon_tune.views import JobView, TrialView

__all__ = ["ResponsePlot", "has_response"]

_WIDEST = 100
_LABEL = 10
_NAMES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.DIVERGED: "diverged",
    TrialState.RUNNING: "running",
}
_BRAILLE = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of the eight dots of a braille character, by row and column."""
_UPPER = 0x01 | 0x08 | 0x02 | 0x10
_GAP = "   "


@dataclass(frozen=True)
class _Symbols:
    """Characters of a plot. States differ by shape, so that the plot needs no colours."""

    states: dict[TrialState, str]
    beyond: tuple[str, str]
    flat: str
    chosen: str
    left: str
    corner: str
    bottom: str
    curve: str
    is_ascii: bool

    def dotted(self, bits: int) -> str:
        """Return the character with these dots; ASCII has one for its upper and one for its lower half."""
        if not self.is_ascii:
            return chr(0x2800 + bits)
        is_above, is_below = bool(bits & _UPPER), bool(bits & ~_UPPER)
        return ":" if is_above and is_below else "'" if is_above else "."


_UNICODE = _Symbols(dict(zip(_NAMES, "●○×▵", strict=True)), ("▲", "▼"), "━", "◆", "│", "└", "─", "⠤", False)
_ASCII = _Symbols(dict(zip(_NAMES, "opx|", strict=True)), ("^", "v"), "=", "#", "|", "+", "-", ".", True)


@dataclass(frozen=True)
class _Axis:
    """Axis of the objective or of gamma."""

    low: float
    high: float
    is_log: bool = False

    def share(self, value: float) -> float:
        """Return the place of a value between the ends, 0 to 1."""
        low, value, high = (math.log(each) if self.is_log else each for each in (self.low, value, self.high))
        return (value - low) / (high - low)

    def value(self, share: float) -> float:
        """Return the value at a place."""
        if self.is_log:
            return math.exp(math.log(self.low) + share * math.log(self.high / self.low))
        return self.low + share * (self.high - self.low)

    def holds(self, value: float) -> bool:
        """Return whether a value lies on the axis."""
        return self.low <= value <= self.high


def has_response(trials: Sequence[TrialView], fewest: int = 1) -> bool:
    """Return whether at least `fewest` search trials of Anon have a value, and their gammas differ."""
    found = [_gamma(trial) for trial in _of_anon(trials) if trial.value is not None]
    return len(found) >= fewest and len(set(found)) > 1


class ResponsePlot:
    """Trials as points by state, with the fitted curve and the flat gammas once the job has an answer.

    It fits the console: at most 100 columns, and ASCII where the encoding has no other characters.

    Args:
        job: The job.
        trials: Its trials; `has_response` must hold for them.
        height: Lines of the plot between its axis and its title.
    """

    def __init__(self, job: JobView, trials: Sequence[TrialView], height: int = 14) -> None:
        self._job, self._height = job, height
        self._trials = list(_of_anon(trials))
        self._curve = None if job.result is None else job.result.gamma.curve
        self._is_min = job.spec["objective"]["mode"] == "min"
        self._gammas, self._values = self._gamma_axis(), self._value_axis()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        symbols = _ASCII if options.ascii_only else _UNICODE
        width = max(20, min(options.max_width, _WIDEST) - _LABEL - 2)
        metric, log = self._job.spec["objective"]["metric"], " (log axis)" if self._values.is_log else ""
        yield Text(f"validation {metric}{log} over gamma, search trials of anon", style="bold")
        cells = self._cells(width, symbols)
        lines = [
            "".join(cells.get((row, column), " ") for column in range(width)) for row in range(self._height)
        ]
        labels = {row: f"{self._at(row):.3g}" for row in self._label_rows()}
        for row, line in enumerate(lines):
            yield _line(f"{labels.get(row, ''):>{_LABEL}} {symbols.left}{line}")
        yield from (_line(line) for line in self._below(width, symbols))
        yield from map(_line, _filled(self._legend(symbols), width + _LABEL + 2))

    def _gamma_axis(self) -> _Axis:
        found = [_gamma(trial) for trial in self._trials]
        if self._curve is not None:
            found += self._curve.gamma
        margin = 0.02 * (max(found) - min(found))
        return _Axis(min(found) - margin, max(found) + margin)

    def _value_axis(self) -> _Axis:
        """Return the axis of the objective; the worst tenth is left out if it takes more than half of it."""
        values = sorted((t.value for t in self._trials if t.value is not None), reverse=not self._is_min)
        is_log = self._job.spec["objective"]["scale"] == "log" and min(values) > 0
        best, worst, most = values[0], values[-1], values[-1 - len(values) // 10]
        whole = _Axis(min(best, worst), max(best, worst), is_log)
        if worst != best and abs(whole.share(most) - whole.share(best)) < 0.5:
            worst = most
        fitted = [each for each in (self._curve.median if self._curve else ()) if each > 0 or not is_log]
        if self._is_min:
            low, high = min([best, *fitted]), worst
        else:
            low, high = worst, max([best, *fitted])
        if low == high:
            margin = abs(low) / 10 or 1.0
            low, high = low - margin, high + margin
        return _Axis(low, high, is_log)

    def _at(self, row: int) -> float:
        return self._values.value(1 - row / (self._height - 1))

    def _label_rows(self) -> list[int]:
        last = self._height - 1
        return sorted({round(last * part / 3) for part in range(4)})

    def _cells(self, width: int, symbols: _Symbols) -> dict[tuple[int, int], str]:
        """Return the characters by row and column; points hide the curve, better trials hide worse ones."""
        cells = self._fitted_cells(width, symbols)
        worse = 0 if self._is_min else self._height - 1
        for trial in sorted(self._trials, key=lambda each: each.value is not None):
            column = round(self._gammas.share(_gamma(trial)) * (width - 1))
            if trial.state in {TrialState.PRUNED, TrialState.DIVERGED}:
                cells[worse, column] = symbols.states[trial.state]
            elif trial.value is not None and self._values.holds(trial.value):
                row = round((1 - self._values.share(trial.value)) * (self._height - 1))
                cells[row, column] = symbols.states[TrialState.COMPLETE]
            elif trial.value is not None:
                cells[worse, column] = symbols.beyond[0 if self._is_min else 1]
        return cells

    def _fitted_cells(self, width: int, symbols: _Symbols) -> dict[tuple[int, int], str]:
        """Return the fitted curve in dots, two columns and four rows to a character."""
        dots: dict[tuple[int, int], int] = {}
        before: int | None = None
        for column in range(2 * width):
            value = self._fitted(self._gammas.value(column / (2 * width - 1)))
            if value is None or not self._values.holds(value):
                before = None
                continue
            row = round((1 - self._values.share(value)) * (4 * self._height - 1))
            for each in _between(row if before is None else before, row):
                place = each // 4, column // 2
                dots[place] = dots.get(place, 0) | _BRAILLE[each % 4][column % 2]
            before = row
        return {place: symbols.dotted(bits) for place, bits in dots.items()}

    def _fitted(self, gamma: float) -> float | None:
        """Return the fitted curve at a gamma, linear between its points; None beyond its ends."""
        if self._curve is None:
            return None
        points = list(zip(self._curve.gamma, self._curve.median, strict=True))
        for (left, one), (right, other) in itertools.pairwise(points):
            if left <= gamma <= right:
                return one + (other - one) * (gamma - left) / (right - left)
        return None

    def _below(self, width: int, symbols: _Symbols) -> Iterator[str]:
        """Yield the axis of gamma with its running trials, its numbers, and the good gammas."""
        axis = [symbols.bottom] * width
        numbers = [" "] * width
        for tick in _ticks(self._gammas, width // 10):
            text = f"{tick:.3g}"
            column = min(round(self._gammas.share(tick) * (width - 1)), width - len(text))
            numbers[column : column + len(text)] = text
        for trial in self._trials:
            if trial.state is TrialState.RUNNING:
                column = round(self._gammas.share(_gamma(trial)) * (width - 1))
                axis[column] = symbols.states[TrialState.RUNNING]
        yield f"{'':{_LABEL}} {symbols.corner}{''.join(axis)}"
        yield f"{'gamma':>{_LABEL}}  {''.join(numbers)}"
        if self._job.result is None:
            return
        good, best = [" "] * width, self._job.result.gamma.best
        for low, high in _good(self._job.result)[0]:
            first, last = (round(self._gammas.share(end) * (width - 1)) for end in (low, high))
            for column in range(max(0, first), min(width - 1, last) + 1):
                good[column] = symbols.flat
        if best is not None and self._gammas.holds(best):
            good[round(self._gammas.share(best) * (width - 1))] = symbols.chosen
        yield f"{'':{_LABEL}}  {''.join(good)}"

    def _legend(self, symbols: _Symbols) -> Iterator[str]:
        counts = Counter(trial.state for trial in self._trials)
        yield from (
            f"{symbols.states[state]} {counts[state]} {name}"
            for state, name in _NAMES.items()
            if counts[state]
        )
        if any(trial.value is not None and not self._values.holds(trial.value) for trial in self._trials):
            yield f"{symbols.beyond[0 if self._is_min else 1]} worse than shown"
        answer = self._job.result
        if answer is None:
            return
        if self._curve is not None:
            yield f"{symbols.curve * 2} estimate with all else tuned"
        ranges, meaning = _good(answer)
        if ranges:
            yield f"{symbols.flat * 2} {meaning}"
        if answer.gamma.best is not None:
            yield f"{symbols.chosen} recommended: {answer.gamma.best:.2f}"


def _good(answer: Answer) -> tuple[list[tuple[float, float]], str]:
    """Return the ranges of good gammas that the report names first, and their meaning; without evidence, no range."""
    gamma = answer.gamma
    if not gamma.enough:
        return [], ""
    if is_quiet(gamma) and gamma.flat and gamma.practical is not None:
        return gamma.flat, f"costs less than {amount(gamma.practical, answer)} more than the best"
    return gamma.indistinguishable, "one run each cannot rank these"


def _of_anon(trials: Iterable[TrialView]) -> Iterator[TrialView]:
    """Yield the search trials of Anon that have a gamma."""
    for trial in trials:
        if trial.arm == "anon" and trial.phase is Phase.SEARCH and "gamma" in trial.hyperparameters:
            yield trial


def _gamma(trial: TrialView) -> float:
    return float(trial.hyperparameters["gamma"])


def _between(one: int, other: int) -> range:
    return range(min(one, other), max(one, other) + 1)


def _ticks(axis: _Axis, most: int) -> list[float]:
    """Return round numbers on an axis, at most `most`."""
    step = next(
        each for each in (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, math.inf) if (axis.high - axis.low) / each <= most
    )
    if math.isinf(step):
        return [axis.low, axis.high]
    first = math.ceil(axis.low / step)
    return [count * step for count in range(first, math.floor(axis.high / step) + 1)]


def _filled(parts: Iterable[str], width: int) -> list[str]:
    """Return lines with as many parts each as fit."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(_GAP) + len(part) <= width:
            lines[-1] += f"{_GAP}{part}"
        else:
            lines.append(part)
    return lines


def _line(text: str) -> Text:
    return Text(text.rstrip(), no_wrap=True, overflow="crop")
