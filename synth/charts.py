"""Charts as SVG, in colours that a page can change: bars, lines on two logarithmic axes, scattered points.

The pictures stand in pages without a server and follow their light or dark scheme by CSS variables, which no plotting
library that draws SVG does; that is why they are drawn here.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["COLOURS", "Line", "Scatter", "bars", "lines", "scatter"]

#: Colours of series in their order: a variable of the page, and the colour where there is none.
COLOURS = tuple(
    f"var(--series-{number}, {colour})"
    for number, colour in enumerate(
        ("#2f6db5", "#c4473a", "#3a8f5c", "#c98a1b", "#7a55a8", "#4aa3a8", "#8a5a3c", "#6b7785"), 1
    )
)
_INK, _FAINT, _GRID = "var(--ink, #1f2933)", "var(--faint, #5b6770)", "var(--grid, #cbd2d9)"

_WIDTH, _HEIGHT = 720, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 40, 56


@dataclass(frozen=True)
class Scatter:
    """A point: ``chosen`` ones are joined and labelled, the others small."""

    x: float
    y: float
    label: str
    chosen: bool
    group: str = ""


@dataclass(frozen=True)
class Line:
    """A series of a chart of lines; ``points`` alone are drawn where ``marks``."""

    name: str
    points: Sequence[tuple[float, float]]
    marks: bool = False


def _number(value: float) -> str:
    """Three digits, with k, M or G where they are many."""
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{letter}"
    return f"{value:.3g}"


def _text(
    x: float, y: float, text: str, anchor: str = "middle", fill: str = _INK, size: int = 12, more: str = ""
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" style="fill:{fill}"{more}>'
        f"{html.escape(text)}</text>"
    )


def _rule(x1: float, y1: float, x2: float, y2: float, stroke: str = _GRID, width: float = 1) -> str:
    return (
        f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" style="stroke:{stroke}" stroke-width="{width:g}" fill="none"/>'
    )


def _frame(title: str, body: Sequence[str], height: float = _HEIGHT) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:g}" role="img" '
            f'font-family="Helvetica, Arial, sans-serif"><title>{html.escape(title)}</title>',
            *body,
            "</svg>",
        ]
    )


def _legend(names: Sequence[str]) -> tuple[list[str], float]:
    """The names of series with their colours, in lines; and how high they are."""
    parts, x, y = [], float(_LEFT), 16.0
    for number, name in enumerate(names):
        # Capitals are wider.
        width = 26 + 6.5 * len(name) + 2.5 * sum(letter.isupper() for letter in name)
        if x + width > _WIDTH - _RIGHT:
            x, y = float(_LEFT), y + 18
        parts.append(
            f'<rect x="{x:.0f}" y="{y - 9:.0f}" width="11" height="11" style="fill:{COLOURS[number % len(COLOURS)]}"/>'
        )
        parts.append(_text(x + 16, y, name, "start"))
        x += width
    return parts, y + 16 if names else 16.0


def _ticks(top: float) -> list[float]:
    """From 0 to a round number that is not below ``top``."""
    if top <= 0:
        return [0.0, 1.0]
    step = 10 ** math.floor(math.log10(top))
    step *= next(factor for factor in (0.2, 0.25, 0.5, 1, 2) if top / (step * factor) <= 6)
    return [step * number for number in range(math.ceil(top / step - 1e-9) + 1)]


def bars(
    title: str,
    unit: str,
    groups: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    stacked: bool = False,
    labels: bool = True,
) -> str:
    """Bars of each group beside or on each other.

    Parameters
    ----------
    unit
        What the axis says.
    series
        A value for each group by name; None where there is none.
    labels
        Numbers above the bars, of a stack the sum.
    """
    legend, top = _legend(list(series) if len(series) > 1 else [])
    turned = max((len(group) for group in groups), default=0) * 7 > (_WIDTH - _LEFT - _RIGHT) / max(1, len(groups))
    bottom = _BOTTOM + (60 if turned else 0)
    height = _HEIGHT + top - _TOP + (60 if turned else 0)
    sums = [sum(values[place] or 0 for values in series.values()) for place in range(len(groups))]
    single = [value or 0 for values in series.values() for value in values]
    ticks = _ticks(1.05 * max(sums if stacked else single, default=0))
    low, high = height - bottom, top + 10

    def level(value: float) -> float:
        return low - (low - high) * value / ticks[-1]

    body = [
        *legend,
        _text(14, (low + high) / 2, unit, more=f' transform="rotate(-90 14 {(low + high) / 2:.0f})"', fill=_FAINT),
    ]
    for tick in ticks:
        body += [
            _rule(_LEFT, level(tick), _WIDTH - _RIGHT, level(tick)),
            _text(_LEFT - 6, level(tick) + 4, _number(tick), "end", _FAINT),
        ]
    room = (_WIDTH - _LEFT - _RIGHT) / max(1, len(groups))
    for place, group in enumerate(groups):
        left = _LEFT + room * (place + 0.12)
        width = room * 0.76 / (1 if stacked else max(1, len(series)))
        base = 0.0
        for number, (name, values) in enumerate(series.items()):
            value = values[place]
            if value is None:
                continue
            x, foot = left + (0 if stacked else width * number), base if stacked else 0.0
            colour = COLOURS[number % len(COLOURS)]
            body.append(
                f'<rect x="{x:.1f}" y="{level(foot + value):.1f}" width="{width * 0.94:.1f}" '
                f'height="{max(0.0, level(foot) - level(foot + value)):.1f}" style="fill:{colour}">'
                f"<title>{html.escape(f'{group}, {name}: {value:.4g} {unit}')}</title></rect>"
            )
            base += value
            if labels and not stacked and width >= 20:
                body.append(_text(x + width * 0.47, level(value) - 4, _number(value), size=10, fill=_FAINT))
        if labels and stacked:
            body.append(_text(left + width / 2, level(base) - 4, _number(base), size=11, fill=_FAINT))
        x, y = left + room * 0.38, low + 16
        more = f' transform="rotate(-40 {x:.1f} {y:.1f})"' if turned else ""
        body.append(_text(x, y, group, "end" if turned else "middle", more=more))
    return _frame(title, body, height)


def _log_ticks(least: float, most: float) -> list[float]:
    """1, 2 and 5 times powers of ten within the range; powers alone where it is wide."""
    factors = (1, 2, 5) if most / least < 1e3 else (1,)
    low, high = math.floor(math.log10(least)), math.ceil(math.log10(most))
    found = [factor * 10.0**power for power in range(low, high + 1) for factor in factors]
    return [tick for tick in found if least * 0.999 <= tick <= most * 1.001]


def _axes(
    xs: Sequence[float], ys: Sequence[float], x_title: str, y_title: str, top: float
) -> tuple[list[str], Callable[[float], float], Callable[[float], float]]:
    """A logarithmic frame around points, and where they stand in it."""
    positive_x, positive_y = [x for x in xs if x > 0] or [1.0], [y for y in ys if y > 0] or [1.0]
    left, right = min(positive_x) / 1.15, max(positive_x) * 1.15
    low, high = min(positive_y) / 1.15, max(positive_y) * 1.15

    def across(x: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * math.log(max(x, left) / left) / math.log(right / left)

    def up(y: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - top) * math.log(max(y, low) / low) / math.log(high / low)

    body = [
        _rule(_LEFT, _HEIGHT - _BOTTOM, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM, _FAINT),
        _rule(_LEFT, top, _LEFT, _HEIGHT - _BOTTOM, _FAINT),
    ]
    for tick in _log_ticks(left, right):
        body += [
            _rule(across(tick), top, across(tick), _HEIGHT - _BOTTOM),
            _text(across(tick), _HEIGHT - _BOTTOM + 16, _number(tick), fill=_FAINT),
        ]
    for tick in _log_ticks(low, high):
        body += [
            _rule(_LEFT, up(tick), _WIDTH - _RIGHT, up(tick)),
            _text(_LEFT - 6, up(tick) + 4, _number(tick), "end", _FAINT),
        ]
    middle = (top + _HEIGHT - _BOTTOM) / 2
    body.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 16, x_title, fill=_FAINT))
    body.append(_text(14, middle, y_title, more=f' transform="rotate(-90 14 {middle:.0f})"', fill=_FAINT))
    return body, across, up


def lines(title: str, x_title: str, y_title: str, series: Sequence[Line]) -> str:
    """Lines and marks on two logarithmic axes."""
    legend, top = _legend([line.name for line in series])
    points = [point for line in series for point in line.points]
    body, across, up = _axes([x for x, _ in points], [y for _, y in points], x_title, y_title, top + 8)
    for number, line in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        places = [(across(x), up(y)) for x, y in line.points]
        if line.marks:
            body += [
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" style="fill:{colour}"><title>'
                f"{html.escape(f'{line.name}: {raw[0]:.4g}, {raw[1]:.4g}')}</title></circle>"
                for (x, y), raw in zip(places, line.points, strict=True)
            ]
        else:
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
            body.append(f'<path d="M{path}" style="stroke:{colour}" stroke-width="2" fill="none"/>')
    return _frame(title, [*legend, *body])


def scatter(points: Sequence[Scatter], x_title: str, y_title: str, title: str) -> str:
    """Points on two logarithmic axes; the chosen ones are joined, and labelled where there is room."""
    groups = list(dict.fromkeys(point.group for point in points))
    legend, top = _legend([group for group in groups if group])
    body, across, up = _axes([p.x for p in points], [p.y for p in points], x_title, y_title, top + 8)
    chosen = sorted((point for point in points if point.chosen), key=lambda point: (point.x, point.y))
    if len(chosen) > 1:
        path = "L".join(f"{across(p.x):.1f} {up(p.y):.1f}" for p in chosen)
        body.append(
            f'<path d="M{path}" style="stroke:{_FAINT}" stroke-width="1.5" stroke-dasharray="5 4" fill="none"/>'
        )
    for point in sorted(points, key=lambda point: point.chosen):
        colour = COLOURS[groups.index(point.group) % len(COLOURS)]
        body.append(
            f'<circle cx="{across(point.x):.1f}" cy="{up(point.y):.1f}" r="{5 if point.chosen else 2.5:g}" '
            f'style="fill:{colour}" opacity="{1 if point.chosen else 0.6:g}">'
            f"<title>{html.escape(f'{point.label}: {point.x:.6g}, {point.y:.6g}')}</title></circle>"
        )
    taken: list[tuple[float, float]] = []
    for point in chosen:
        x, y = across(point.x), up(point.y) - 9
        if all(abs(x - a) > 7 * len(point.label) or abs(y - b) > 13 for a, b in taken):
            taken.append((x, y))
            anchor = "end" if x > _WIDTH * 0.7 else "start"
            body.append(_text(x, y, point.label, anchor, size=11))
    return _frame(title, [*legend, *body])
