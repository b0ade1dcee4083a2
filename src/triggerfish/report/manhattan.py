"""The Manhattan plot: the screening statistic of every vocabulary entry, and the threshold.

A vocabulary of 250,000 entries would make a page of many megabytes. Entries are therefore counted
on a grid and drawn as shaded cells, with one SVG path per shade. Triggers and near misses are drawn
exactly, on top. Words of several subword tokens have no token id; they are drawn in a second panel
on the same vertical scale, the highest value first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from triggerfish.records import Finding, ManhattanPlot
from triggerfish.report.escape import quoted, shorten, visible
from triggerfish.report.figures import (
    LABEL_WIDTH,
    Box,
    Mark,
    line,
    marks,
    svg,
    text,
    ticks,
    upright,
)
from triggerfish.report.glossary import number

COLUMNS, ROWS, SHADES = 300, 80, 5
_WIDTH, _HEIGHT = 1040.0, 400.0
_LEFT, _TOP, _BOTTOM = 66.0, 16.0, 48.0
_PANEL, _GAP = 190.0, 34.0
# With values above this multiple of the threshold, a linear axis would draw all benign tokens
# as one line.
_COMPRESS_FROM = 4.0


@dataclass(frozen=True)
class Scale:
    """Maps a value to its share of the axis, 0 at the bottom. The axis is linear if `bend` is None,
    otherwise asinh(value / bend)."""

    low: float
    high: float
    bend: float | None

    def __call__(self, value: float) -> float:
        low, high, here = self._bent(self.low), self._bent(self.high), self._bent(value)
        return (here - low) / ((high - low) or 1.0)

    def _bent(self, value: float) -> float:
        return value if self.bend is None else math.asinh(value / self.bend)


def scale_for(manhattan: ManhattanPlot) -> Scale:
    """An axis that contains every value and the threshold, compressed where values exceed the
    threshold by far."""
    values = [v for v in manhattan.values if v is not None and math.isfinite(v)]
    values += [v for _, v in manhattan.words if math.isfinite(v)]
    if math.isfinite(manhattan.threshold):
        values.append(manhattan.threshold)
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = abs(manhattan.threshold) if math.isfinite(manhattan.threshold) else 0.0
    if room and max(abs(low), high) > _COMPRESS_FROM * room:
        return Scale(low - 0.1 * abs(low), high * 1.25 if high > 0 else high, room)
    margin = 0.06 * ((high - low) or 1.0)
    return Scale(low - margin, high + margin, None)


def density(
    values: Sequence[float | None], scale: Scale, columns: int, rows: int
) -> dict[tuple[int, int], int]:
    """Number of entries with a finite value in each (column, row) of the grid; row 0 is at the
    top."""
    cells: dict[tuple[int, int], int] = {}
    width = max(len(values), 1)
    for token, value in enumerate(values):
        if value is None or not math.isfinite(value):
            continue
        row = min(rows - 1, max(0, int((1.0 - scale(value)) * rows)))
        cell = (token * columns // width, row)
        cells[cell] = cells.get(cell, 0) + 1
    return cells


def runs(cells: dict[tuple[int, int], int]) -> dict[int, str]:
    """SVG path data for each shade, adjacent cells joined. The shade grows with the logarithm of
    the count."""
    peak = math.log1p(max(cells.values(), default=1))
    paths: dict[int, list[str]] = {}
    last: tuple[int, int, int] | None = None  # shade, row, column after the end of the run
    for (column, row), count in sorted(cells.items(), key=lambda item: (item[0][1], item[0][0])):
        shade = min(SHADES - 1, int(SHADES * math.log1p(count) / peak))
        if last == (shade, row, column):
            paths[shade][-1] = _longer(paths[shade][-1])
        else:
            paths.setdefault(shade, []).append(f"M{column} {row}.5h1")
        last = (shade, row, column + 1)
    return {shade: "".join(parts) for shade, parts in paths.items()}


def _longer(run: str) -> str:
    start, length = run.rsplit("h", 1)
    return f"{start}h{int(length) + 1}"


def figure(
    manhattan: ManhattanPlot, findings: Sequence[Finding], near: Sequence[Finding]
) -> Markup | None:
    """The plot, or None without any value. `outside` lists findings that it cannot show."""
    if not manhattan.words and all(value is None for value in manhattan.values):
        return None
    scale = scale_for(manhattan)
    right = _WIDTH - 12 - (_PANEL + _GAP if manhattan.words else 0)
    frame = (_LEFT, _TOP, right, _HEIGHT - _BOTTOM)
    parts = [_grid(scale, frame, _WIDTH - 12), _cells(manhattan, scale, frame)]
    parts += _vocabulary_axis(len(manhattan.values), frame)
    spots: list[Mark] = []
    busy: list[Box] = []
    if manhattan.words:
        panel = (right + _GAP, _TOP, _WIDTH - 12, frame[3])
        parts += _words(manhattan, scale, panel)
    label = f"threshold {number(manhattan.threshold)}"
    if math.isfinite(manhattan.threshold):
        y = _height(manhattan.threshold, scale, frame)
        parts.append(line(_LEFT, y, _WIDTH - 12, y, "threshold"))
        parts.append(text(_LEFT + 6, y - 5, label, "label strong"))
        busy.append((_LEFT, y - 16, _LEFT + 150, y + 2))
    for finding in near:
        place = position(manhattan, finding, scale, frame)
        if place:
            busy.append((place[0] - 5, place[1] - 5, place[0] + 5, place[1] + 5))
            parts.append(
                Markup(
                    '<circle class="near" cx="{:.1f}" cy="{:.1f}" r="4.5">'
                    "<title>{}</title></circle>"
                ).format(place[0], place[1], f"did not pass: {quoted(finding.trigger.text, 120)}")
            )
    for series, finding in enumerate(findings):
        place = position(manhattan, finding, scale, frame)
        if place:
            name = f"{series + 1} {shorten(finding.trigger.text, LABEL_WIDTH)}"
            title = f"{quoted(finding.trigger.text, 120)}: {number(place[2])}"
            spots.append(Mark(series, place[0], place[1], name, title))
    parts += marks(spots, (_LEFT, 2.0, _WIDTH - 2, frame[3]), busy)
    axis = visible(manhattan.statistic) + ("" if scale.bend is None else " (compressed scale)")
    parts.append(upright(14, (frame[1] + frame[3]) / 2, axis))
    words = (
        f"{visible(manhattan.statistic)} of {len(manhattan.values):,} vocabulary entries, {label}"
    )
    return svg(_WIDTH, _HEIGHT, words, parts, "manhattan")


def position(
    manhattan: ManhattanPlot, finding: Finding, scale: Scale, frame: Box
) -> tuple[float, float, float] | None:
    """(x, y, value) of a finding, or None if the first stage did not try it by itself."""
    ids = finding.trigger.token_ids
    if len(ids) == 1 and ids[0] < len(manhattan.values):
        value = manhattan.values[ids[0]]
        if value is None or not math.isfinite(value):
            return None
        x = frame[0] + (frame[2] - frame[0]) * (ids[0] + 0.5) / len(manhattan.values)
        return x, _height(value, scale, frame), value
    for rank, (word, value) in enumerate(manhattan.words):
        if math.isfinite(value) and word.strip() == finding.trigger.text.strip():
            x = _word_x(rank, len(manhattan.words), frame[2] + _GAP, _WIDTH - 12)
            return x, _height(value, scale, frame), value
    return None


def outside(manhattan: ManhattanPlot, findings: Sequence[Finding]) -> list[int]:
    """Indices of findings that the plot cannot show, because the first stage did not try them."""
    unit, frame = Scale(0.0, 1.0, None), (0.0, 0.0, 1.0, 1.0)
    return [
        i for i, finding in enumerate(findings) if position(manhattan, finding, unit, frame) is None
    ]


def _height(value: float, scale: Scale, frame: Box) -> float:
    return frame[3] - (frame[3] - frame[1]) * scale(value)


def _word_x(rank: int, total: int, left: float, right: float) -> float:
    return left + (right - left) * (rank + 0.5) / total


def _cells(manhattan: ManhattanPlot, scale: Scale, frame: Box) -> Markup:
    paths = runs(density(manhattan.values, scale, COLUMNS, ROWS))
    shades = Markup("").join(
        Markup('<path class="d{}" d="{}"/>').format(shade, path)
        for shade, path in sorted(paths.items())
    )
    # One unit is one cell, so that path data are short integers.
    return Markup(
        '<g class="cells" transform="translate({:.1f} {:.1f}) scale({:.4f} {:.4f})">{}</g>'
    ).format(
        frame[0], frame[1], (frame[2] - frame[0]) / COLUMNS, (frame[3] - frame[1]) / ROWS, shades
    )


def _grid(scale: Scale, frame: Box, right: float) -> Markup:
    parts = []
    previous = math.inf
    for value in _levels(scale):
        y = _height(value, scale, frame)
        if previous - y < 15:
            continue
        previous = y
        parts += [
            line(frame[0], y, right, y, "grid"),
            text(frame[0] - 7, y + 3.5, number(value), "tick", "end"),
        ]
    return Markup("").join(parts)


def _levels(scale: Scale) -> list[float]:
    """Tick values in ascending order: evenly spaced on a linear axis, 1-2-5 steps on a compressed
    one."""
    if scale.bend is None:
        return [round(value, 9) for value in ticks(scale.low, scale.high, 7)]
    top = math.ceil(math.log10(max(abs(scale.low), abs(scale.high))))
    steps = [factor * 10.0**power for power in range(top - 4, top + 1) for factor in (1, 2, 5)]
    both = sorted([0.0, *steps, *(-step for step in steps)])
    return [
        value
        for value in both
        if scale.low <= value <= scale.high and (value == 0 or abs(value) >= 1)
    ]


def _vocabulary_axis(size: int, frame: Box) -> list[Markup]:
    parts = [line(frame[0], frame[3], frame[2], frame[3], "rule")]
    for value in ticks(0, size, 8):
        x = frame[0] + (frame[2] - frame[0]) * value / max(size, 1)
        parts += [line(x, frame[3], x, frame[3] + 4, "rule")]
        parts += [text(x, frame[3] + 17, f"{value:,.0f}", "tick", "middle")]
    middle = (frame[0] + frame[2]) / 2
    return [*parts, text(middle, frame[3] + 38, "token id, in vocabulary order", "axis", "middle")]


def _words(manhattan: ManhattanPlot, scale: Scale, panel: Box) -> list[Markup]:
    total = len(manhattan.words)
    dots = "".join(
        f"M{_word_x(rank, total, panel[0], panel[2]):.1f} {_height(value, scale, panel):.1f}h0"
        for rank, (_, value) in enumerate(manhattan.words)
        if math.isfinite(value)
    )
    return [
        line(panel[0], panel[3], panel[2], panel[3], "rule"),
        Markup('<path class="words" d="{}"/>').format(dots),
        text(panel[0], panel[3] + 17, "1", "tick", "middle"),
        text(panel[2], panel[3] + 17, f"{total:,}", "tick", "end"),
        text(
            (panel[0] + panel[2]) / 2,
            panel[3] + 38,
            "words, by rank",
            "axis",
            "middle",
        ),
    ]
