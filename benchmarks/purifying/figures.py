"""Line and point charts as SVG files that stand alone: colours are inside, the ground is white."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from triggerfish.report.figures import ticks
from triggerfish.writing import write_text

COLOURS = ("#1f6fb2", "#c2410c", "#15803d", "#7c3aed", "#0e7490", "#a16207", "#be185d", "#475569")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 360, 56, 190, 18, 46


@dataclass(frozen=True)
class Series:
    """points: (x, y) in the units of the axes. style: "line", "dashed" or "points"."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int
    style: str = "line"


def chart(
    file: Path,
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    y_range: tuple[float, float] = (0, 100),
) -> None:
    """Write the chart; its title is for those who cannot see it."""
    xs = [x for one in series for x, _ in one.points]
    low, high = min(xs), max(xs)
    if low == high:
        low, high = low - 1, high + 1
    floor, ceiling = y_range

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - low) / (high - low) * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - (y - floor) / (ceiling - floor) * (HEIGHT - TOP - BOTTOM)

    parts = [Markup('<rect width="{}" height="{}" fill="#fff"/>').format(WIDTH, HEIGHT)]
    for y in ticks(floor, ceiling, 5):
        left, level = place(low, y)
        parts.append(_line(left, level, place(high, y)[0], level, "#ddd"))
        parts.append(_text(left - 8, level + 4, f"{y:g}", "end"))
    for x in ticks(low, high, 6):
        across, bottom = place(x, floor)
        parts.append(_line(across, bottom, across, bottom + 4, "#888"))
        parts.append(_text(across, bottom + 18, f"{x:g}", "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_label, "middle"))
    parts.append(
        Markup(
            '<text transform="translate(14 {}) rotate(-90)" text-anchor="middle">{}</text>'
        ).format((TOP + HEIGHT - BOTTOM) / 2, y_label)
    )
    for number, one in enumerate(series):
        parts += _drawn(one, [place(x, y) for x, y in one.points], number)
    page = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" role="img" aria-label="{}" '
        'font-family="sans-serif" font-size="12" fill="#222">{}</svg>\n'
    ).format(WIDTH, HEIGHT, title, Markup("").join(parts))
    write_text(file, page)


def _drawn(one: Series, places: Sequence[tuple[float, float]], number: int) -> list[Markup]:
    colour = COLOURS[one.colour % len(COLOURS)]
    found = []
    if one.style != "points":
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        dashes = "6 4" if one.style == "dashed" else "none"
        found.append(
            Markup(
                '<path d="{}" fill="none" stroke="{}" stroke-width="2" stroke-dasharray="{}"/>'
            ).format(path, colour, dashes)
        )
    found += [
        Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{}" fill="{}"/>').format(
            x, y, 5 if one.style == "points" else 3, colour
        )
        for x, y in places
    ]
    top = TOP + 12 + 18 * number
    start = WIDTH - RIGHT + 12
    dashes = "6 4" if one.style == "dashed" else "none"
    found.append(
        Markup('<path d="M{} {}h20" stroke="{}" stroke-width="3" stroke-dasharray="{}"/>').format(
            start, top - 4, colour, dashes
        )
    )
    return [*found, _text(start + 26, top, one.name, "start")]


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> Markup:
    return Markup('<path d="M{:.1f} {:.1f}L{:.1f} {:.1f}" stroke="{}"/>').format(
        x1, y1, x2, y2, colour
    )


def _text(x: float, y: float, words: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        x, y, anchor, words
    )
