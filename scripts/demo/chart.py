"""A score over time as a picture: characters for a terminal, plain ASCII where it must be, and an SVG file. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

HEIGHT = 9  # lines of the picture in characters
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#f0e442", "#000000")  # Okabe and Ito
SVG_WIDTH, SVG_HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 360, 60, 20, 50, 50


class Point(NamedTuple):
    """A model that was scored.

    Attributes:
        seconds: When, from the beginning.
        score: What it scored.
        by: The site that it is from; empty for the coordinator and for rounds of all.
        current: Whether it became the current model.
    """

    seconds: float
    score: float
    by: str
    current: bool


def in_characters(points: Sequence[Point], width: int, *, ascii_only: bool) -> list[str]:
    """The current model's score as lines of at most `width` characters; a mark stands where a model became current.

    Args:
        points: In order of time; at least one of a current model.
    """
    mark, flat, corner, side = ("*", "-", "+", "|") if ascii_only else ("●", "─", "└", "│")
    current = [point for point in points if point.current]
    low, high = _range([point.score for point in current])
    last = max(points[-1].seconds, 1.0)
    columns = max(width - 9, 20)
    rows = [[" "] * columns for _ in range(HEIGHT)]
    for number, point in enumerate(current):
        until = current[number + 1].seconds if number + 1 < len(current) else last
        first, end = (min(int(at / last * (columns - 1)), columns - 1) for at in (point.seconds, until))
        row = rows[HEIGHT - 1 - round((point.score - low) / (high - low) * (HEIGHT - 1))]
        for column in range(first, end + 1):
            if row[column] == " ":
                row[column] = flat
        row[first] = mark
    lines = []
    for number, row in enumerate(rows):
        value = high - (high - low) * number / (HEIGHT - 1)
        label = f"{value:6.3f}" if number % 4 == 0 else " " * 6
        lines.append(f"{label} {side}{''.join(row)}".rstrip())
    lines.append(f"{' ' * 7}{corner}{flat * columns}")
    end_label = _duration(last)
    lines.append(f"{' ' * 8}0:00{end_label.rjust(columns - 4)}")
    return lines


def as_svg(points: Sequence[Point], metric: str, title: str) -> str:
    """The same as an SVG file: the current model's score as a line, every scored model as a dot in its site's colour.

    A full dot became the current model, an open one was refused.
    """
    low, high = _range([point.score for point in points])
    last = max(points[-1].seconds, 1.0)

    def x(seconds: float) -> float:
        return LEFT + seconds / last * (SVG_WIDTH - LEFT - RIGHT)

    def y(score: float) -> float:
        return SVG_HEIGHT - BOTTOM - (score - low) / (high - low) * (SVG_HEIGHT - TOP - BOTTOM)

    names = sorted({point.by for point in points if point.by})
    colours = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SVG_WIDTH} {SVG_HEIGHT}" width="{SVG_WIDTH}" '
        f'height="{SVG_HEIGHT}" font-family="sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{SVG_WIDTH}" height="{SVG_HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="14">{escape(title)}</text>',
    ]
    for number in range(5):
        value = low + (high - low) * number / 4
        parts.append(
            f'<line x1="{LEFT}" x2="{SVG_WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#dddddd"/>'
            f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.3f}</text>'
        )
        at = last * number / 4
        where = f'x="{x(at):.1f}" y="{SVG_HEIGHT - BOTTOM + 18}"'
        parts.append(f'<text {where} text-anchor="middle">{_duration(at)}</text>')
    parts.append(
        f'<text x="{(LEFT + SVG_WIDTH - RIGHT) / 2}" y="{SVG_HEIGHT - 10}" text-anchor="middle">'
        f"{escape(metric)} on the holdout, by minutes and seconds of work</text>"
    )
    current = [point for point in points if point.current]
    path = f"M{x(current[0].seconds):.1f},{y(current[0].score):.1f}"
    path += "".join(f"H{x(point.seconds):.1f}V{y(point.score):.1f}" for point in current[1:]) + f"H{x(last):.1f}"
    parts.append(f'<path d="{path}" fill="none" stroke="#444444" stroke-width="2"/>')
    for point in points:
        colour = colours.get(point.by, "#444444")
        fill = colour if point.current else "white"
        said = f"{point.by or 'all'}: {point.score:.4f}{'' if point.current else ', refused'}"
        parts.append(
            f'<circle cx="{x(point.seconds):.1f}" cy="{y(point.score):.1f}" r="4" fill="{fill}" stroke="{colour}">'
            f"<title>{escape(said)}</title></circle>"
        )
    for number, name in enumerate(names[: len(COLOURS)]):
        at = LEFT + number * 84
        parts.append(f'<circle cx="{at}" cy="36" r="4" fill="{colours[name]}"/>')
        parts.append(f'<text x="{at + 8}" y="40">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _range(scores: Sequence[float]) -> tuple[float, float]:
    """A little more than what the scores reach over, so that one score alone is a picture, too."""
    low, high = min(scores), max(scores)
    space = max((high - low) * 0.05, 0.005)
    return low - space, high + space


def _duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
