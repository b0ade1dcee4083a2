"""Figures of complications as inline SVG: the heat map of tasks and triggers, and the class shares
of one task without and with a trigger.

Like `figures`: plain functions from numbers to markup, every string escaped, colours from the page.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from triggerfish.complications.records import Complication, Complications
from triggerfish.report.escape import quoted, shorten, visible
from triggerfish.report.figures import line, svg, text
from triggerfish.report.glossary import number

_ROW, _LEFT, _TOP = 26.0, 170.0, 30.0
_CELL = 104.0
_DARK = 0.65
"""Shade from which a cell's number is written in the colour of the paper."""
CLASSES = 16
"""Classes drawn at most; of more, those that change most."""


def heat_map(result: Complications) -> Markup:
    """Tasks down, triggers across, with the total variation; darker is nearer to the most there can
    be. A dot marks what no control word does; tasks that carry no verdict are dashed."""
    triggers = [profile.trigger.text for profile in result.profiles]
    parts = [
        text(_LEFT + _CELL * (i + 0.5), _TOP - 10, shorten(name, 14), "tick", "middle")
        for i, name in enumerate(triggers)
    ]
    for down, task in enumerate(result.tasks):
        y = _TOP + _ROW * down
        parts.append(text(_LEFT - 8, y + 17, shorten(task.name, 22), "tick", "end"))
        for across, trigger in enumerate(triggers):
            record = result.of(task.name, trigger)
            parts.append(_cell(record, _LEFT + _CELL * across, y, bool(task.refused), result))
    width = _LEFT + _CELL * len(triggers) + 8
    height = _TOP + _ROW * len(result.tasks) + 6
    label = f"Heat map of total variation: {len(result.tasks)} tasks, {len(triggers)} triggers"
    drawing = svg(width, height, label, parts, "heat")
    return Markup('<div style="max-width: {:.0f}px">{}</div>').format(1.4 * width, drawing)


def _cell(record: Complication, x: float, y: float, refused: bool, result: Complications) -> Markup:
    significant = record.p_family is not None and record.p_family <= result.settings["alpha"]
    p = "not compared with controls" if record.p_family is None else f"p {number(record.p_family)}"
    title = (
        f"{visible(record.task)}, {quoted(record.trigger, 60)}: total variation {record.tv:.3f} "
        f"({record.tv_interval[0]:.3f} to {record.tv_interval[1]:.3f}), {p}"
    )
    shade = min(1.0, record.tv / (1 - min(record.clean)))
    box = Markup(
        '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" '
        'fill-opacity="{:.3f}"><title>{}</title></rect>'
    ).format("cell refused" if refused else "cell", x + 1, y + 1, _CELL - 2, _ROW - 2, shade, title)
    words = text(
        x + _CELL / 2, y + 17, f"{record.tv:.2f}", "over" if shade > _DARK else "on", "middle"
    )
    if not significant:
        return box + words
    dot = Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="3.5"/>').format(
        "over" if shade > _DARK else "on", x + _CELL / 2 + 26, y + 13
    )
    return box + words + dot


def shares(record: Complication, labels: Sequence[str], series: int) -> Markup:
    """Class shares of one task: clean in grey, triggered in the colour of the trigger, side by
    side."""
    order = sorted(range(len(labels)), key=lambda k: -abs(record.triggered[k] - record.clean[k]))
    shown = sorted(order[:CLASSES])
    width, height, base = 190.0, 62.0, 52.0
    step = width / len(shown)
    parts = [line(0, base, width, base, "grid")]
    for place, k in enumerate(shown):
        for half, (share, css) in enumerate(
            ((record.clean[k], "before"), (record.triggered[k], f"s{series % 8}"))
        ):
            wide = min(step * 0.4, 22.0)
            x = step * (place + 0.5) + (half - 1) * wide
            title = f"{visible(labels[k])}: {share:.1%} {'triggered' if half else 'clean'}"
            parts.append(
                Markup(
                    '<path class="{}" d="M{:.1f} {:.1f}h{:.1f}v{:.1f}h{:.1f}z">'
                    "<title>{}</title></path>"
                ).format(css, x, base, wide, -46 * share, -wide, title)
            )
    winner = shorten(f"{labels[record.dominant]}: {record.triggered[record.dominant]:.0%}", 26)
    parts.append(text(width / 2, height - 1, winner, "tick", "middle"))
    left_out = len(labels) - len(shown)
    label = (
        f"Class shares of {visible(record.task)} without and with {quoted(record.trigger, 40)}"
        + (f"; {left_out} classes that change less are left out" if left_out else "")
    )
    return svg(width, height, label, parts, "shares")
