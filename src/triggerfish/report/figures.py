"""Figures as inline SVG: marks, sparklines, the projection, and the pieces of `manhattan.py`.

Plain functions from numbers to markup. `Markup.format` escapes every argument, so no caller's text
becomes an element; colours are CSS classes of the page, so one figure serves light, dark and paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from rich.cells import cell_len

from triggerfish.records import Projection
from triggerfish.report.escape import quoted, shorten, visible
from triggerfish.report.glossary import number

COLOURS = 8
LABEL_WIDTH = 18
_SIDES: tuple[tuple[int, float], ...] = (
    (3, -90.0),
    (4, -45.0),
    (4, 0.0),
    (3, 90.0),
    (5, -90.0),
    (6, 0.0),
)
SHAPES = len(_SIDES) + 1  # the regular polygons and the circle; coprime with COLOURS
_CHAR = 6.7  # width of one column of the 11 px monospace labels
_LINE = 14.0
Box = tuple[float, float, float, float]
Point = tuple[float, float]


@dataclass(frozen=True)
class Mark:
    """A trigger in a figure: its series number (colour and shape), where it is, and its words."""

    series: int
    x: float
    y: float
    label: str
    title: str


def shape(series: int, x: float, y: float, r: float) -> str:
    """Path data of a series' mark at (x, y): a circle, then regular polygons and a star."""
    kind = series % SHAPES
    if kind == 0:
        return f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z"
    sides, turn = _SIDES[kind - 1]
    r *= 1.2
    corners = (
        (
            x + r * math.cos(math.radians(turn + 360 * step / sides)),
            y + r * math.sin(math.radians(turn + 360 * step / sides)),
        )
        for step in range(sides)
    )
    return "M" + "L".join(f"{cx:.1f} {cy:.1f}" for cx, cy in corners) + "z"


def key(series: int) -> Markup:
    """The mark of a series on its own, for legends and tables."""
    path = Markup('<path class="s{}" d="{}"/>').format(series % COLOURS, shape(series, 7, 7, 5))
    return Markup('<svg class="key" viewBox="0 0 14 14" aria-hidden="true">{}</svg>').format(path)


def text(x: float, y: float, words: str, css: str = "tick", anchor: str = "start") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        css, x, y, anchor, words
    )


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> Markup:
    return Markup('<path class="{}" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>').format(css, x1, y1, x2, y2)


def upright(x: float, y: float, words: str) -> Markup:
    """The title of a vertical axis, read from bottom to top."""
    return Markup(
        '<text class="axis" text-anchor="middle" '
        'transform="translate({:.1f} {:.1f}) rotate(-90)">{}</text>'
    ).format(x, y, words)


def svg(width: float, height: float, label: str, parts: Iterable[Markup], css: str) -> Markup:
    return Markup(
        '<svg class="{}" viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}">{}</svg>'
    ).format(css, width, height, label, Markup("").join(parts))


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round values inside [low, high], roughly `about` of them."""
    if not high > low:
        return [low]
    rough = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [0.0 if index == 0 else index * step for index in range(first, last + 1)]


def marks(items: Sequence[Mark], frame: Box, busy: Sequence[Box] = ()) -> list[Markup]:
    """Marks with labels that avoid each other; a label that finds no room is dropped.

    frame: (left, top, right, bottom) inside which labels must stay. Every mark keeps its tooltip.
    busy: boxes that labels avoid as long as there is room elsewhere.
    """
    taken: list[Box] = [(m.x - 6, m.y - 6, m.x + 6, m.y + 6) for m in items]
    out: list[Markup] = []
    for mark in sorted(items, key=lambda item: (item.y, item.x)):
        place = _place(mark, [*taken, *busy], frame) or _place(mark, taken, frame)
        if place is not None:
            taken.append(place)
            out.append(_label(mark, place))
    for mark in items:
        out.append(
            Markup('<path class="s{} mark" d="{}"><title>{}</title></path>').format(
                mark.series % COLOURS, shape(mark.series, mark.x, mark.y, 5), mark.title
            )
        )
    return out


def _place(mark: Mark, taken: Sequence[Box], frame: Box) -> Box | None:
    """The free place for a label nearest to its mark: beside it first, then further up and down."""
    width = _CHAR * cell_len(mark.label)
    for shift in (0, -1, 1, -2, 2, -3, 3, -4, 4, -5, 5, -6, 6):
        for gap in (11.0, 24.0):
            for left in (mark.x + gap, mark.x - gap - width):
                top = mark.y - _LINE / 2 + shift * _LINE
                box = (left, top, left + width, top + _LINE)
                inside = (
                    box[0] >= frame[0]
                    and box[1] >= frame[1]
                    and box[2] <= frame[2]
                    and box[3] <= frame[3]
                )
                if inside and not any(_overlap(box, other) for other in taken):
                    return box
    return None


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _label(mark: Mark, box: Box) -> Markup:
    words = text(box[0], box[3] - 3.5, mark.label, "label")
    middle = (box[1] + box[3]) / 2
    near = box[0] - 2 if box[0] > mark.x else box[2] + 2
    if abs(middle - mark.y) < 1 and abs(near - mark.x) < 14:
        return words
    return line(mark.x, mark.y, near, middle, "leader") + words


def sparkline(values: Sequence[float], name: str, bars: bool = False) -> Markup:
    """A small chart of a few numbers over a baseline at zero; bars for places, a line for doses."""
    width, height, pad = 96.0, 34.0, 5.0
    low, high = min(0.0, *values), max(0.0, *values)
    span = (high - low) or 1.0
    step = (width - 2 * pad) / (len(values) if bars else max(len(values) - 1, 1))

    def down(value: float) -> float:
        return height - pad - (height - 2 * pad) * (value - low) / span

    parts = [line(0, down(0), width, down(0), "grid")]
    if bars:
        for index, value in enumerate(values):
            x, top, bottom = (
                pad + step * (index + 0.18),
                min(down(value), down(0)),
                max(down(value), down(0)),
            )
            parts.append(
                Markup('<path class="bar" d="M{:.1f} {:.1f}h{:.1f}V{:.1f}h{:.1f}z"/>').format(
                    x, bottom, step * 0.64, top, -step * 0.64
                )
            )
    else:
        spots = [(pad + step * index, down(value)) for index, value in enumerate(values)]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
        parts.append(Markup('<path class="spark" d="{}"/>').format(path))
        dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in spots[:24])
        parts.append(Markup('<path class="dot" d="{}"/>').format(dots))
    label = f"{name}: {', '.join(map(number, values))}"
    return svg(width, height, label, parts, "small")


def projection(data: Projection, series: dict[str, int]) -> Markup:
    """Clean texts in grey, each trigger's in its colour and shape; both axes have the same unit.

    series: the series number of every trigger string in `data.triggered`.
    """
    width, height = 640.0, 440.0
    frame = (52.0, 12.0, width - 12, height - 44)
    groups = [data.clean, *data.triggered.values()]
    points = [point for group in groups for point in group if all(map(math.isfinite, point))]
    place = _fit(points, frame)
    dots = "".join(f"M{x} {y}h0" for x, y in _spots(data.clean, place))
    parts = [_cross(place, frame), Markup('<path class="clean" d="{}"/>').format(dots)]
    heads: list[Mark] = []
    busy = [(x - 3, y - 3, x + 3, y + 3) for x, y in _spots(data.clean, place)]
    for name, group in data.triggered.items():
        spots = _spots(group, place)
        if not spots:
            continue
        number_of = series[name]
        path = "".join(shape(number_of, x, y, 3) for x, y in spots)
        parts.append(Markup('<path class="s{} cloud" d="{}"/>').format(number_of % COLOURS, path))
        busy += [(x - 4, y - 4, x + 4, y + 4) for x, y in spots]
        x = sum(spot[0] for spot in spots) / len(spots)
        y = sum(spot[1] for spot in spots) / len(spots)
        title = f"{quoted(name, 120)}: {len(group):,} texts"
        heads.append(Mark(number_of, x, y, f"{number_of + 1} {shorten(name, LABEL_WIDTH)}", title))
    parts += marks(heads, frame, busy)
    first, second = (f"{share:.0%} of the variance" for share in data.explained)
    parts.append(
        text((frame[0] + frame[2]) / 2, height - 8, f"principal axis 1 ({first})", "axis", "middle")
    )
    parts.append(upright(14, (frame[1] + frame[3]) / 2, f"principal axis 2 ({second})"))
    label = (
        f"Scatter plot at readout {visible(data.readout)}: {len(data.clean)} clean texts and "
        f"{len(data.triggered)} triggers on two principal axes"
    )
    return svg(width, height, label, parts, "scatter")


@dataclass(frozen=True)
class _Placement:
    """Maps data to pixels with one scale for both axes, so that distances may be compared."""

    unit: float
    x0: float
    y0: float

    def __call__(self, point: Point) -> Point:
        return (self.x0 + self.unit * point[0], self.y0 - self.unit * point[1])


def _fit(points: Sequence[Point], frame: Box) -> _Placement:
    xs, ys = [p[0] for p in points] or [0.0], [p[1] for p in points] or [0.0]
    wide, tall = (max(xs) - min(xs)) * 1.1 or 1.0, (max(ys) - min(ys)) * 1.1 or 1.0
    unit = min((frame[2] - frame[0]) / wide, (frame[3] - frame[1]) / tall)
    x0 = (frame[0] + frame[2]) / 2 - unit * (min(xs) + max(xs)) / 2
    y0 = (frame[1] + frame[3]) / 2 + unit * (min(ys) + max(ys)) / 2
    return _Placement(unit, x0, y0)


def _spots(group: Sequence[Point], place: _Placement) -> list[Point]:
    """Pixels of a group, each once: a collapsed group is hundreds of texts on one pixel."""
    pixels = (place(point) for point in group if all(map(math.isfinite, point)))
    return list(dict.fromkeys((round(x, 1), round(y, 1)) for x, y in pixels))


def _cross(place: _Placement, frame: Box) -> Markup:
    """Frame, grid and tick labels of the projection."""
    left, right = ((frame[side] - place.x0) / place.unit for side in (0, 2))
    low, high = ((place.y0 - frame[side]) / place.unit for side in (3, 1))
    parts = []
    for value in ticks(left, right, 7):
        x = place((value, 0))[0]
        parts += [line(x, frame[1], x, frame[3], "grid")]
        parts += [text(x, frame[3] + 15, number(round(value, 9)), "tick", "middle")]
    for value in ticks(low, high, 5):
        y = place((0, value))[1]
        parts += [line(frame[0], y, frame[2], y, "grid")]
        parts += [text(frame[0] - 6, y + 3.5, number(round(value, 9)), "tick", "end")]
    return Markup("").join(parts)
