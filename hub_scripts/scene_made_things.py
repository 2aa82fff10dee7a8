"""Made things: vessels, boxes, devices, vehicles, furniture, tools, buildings; each call draws another of its kind."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from sam_variants.hub_scripts.scene_shapes import random_shape
from sam_variants.hub_scripts.scene_things import (
    Thing,
    box,
    curve,
    disc,
    hoop,
    lathe,
    limb,
    moved,
    poly,
    union,
    wire,
)

Rng = np.random.Generator


def _print_on(rng: Rng, thing: Thing, parent: int, x: float, y: float, size: float, surface: int) -> None:
    """A shape printed on a piece, now and then with a smaller one on it."""
    shape, angle = random_shape(rng)
    one = shape.placed(np.array([x, y]), size**2, angle)
    index = thing.add(one, parent, surface, inside=True)
    if rng.uniform() < 0.4:
        thing.add(moved(one, np.eye(2) * 0.45, np.array([x, y]) * 0.55), index, surface + 1, inside=True)


def mug(rng: Rng) -> Thing:
    thing, width, top = Thing(), rng.uniform(0.5, 0.9), rng.uniform(0.75, 1.0)
    handle = np.array(
        [(width * 0.9, -top * 0.55), (width * 1.5, -top * 0.6), (width * 1.55, top * 0.3), (width * 0.8, top * 0.5)]
    )
    thing.add(wire(curve(handle), rng.uniform(0.12, 0.22)), surface=int(rng.integers(2)), form="pillow")
    foot = width * rng.uniform(0.6, 1.0)
    body = thing.body(lathe([(width, -top), (width * 0.98, 0), (foot, top * 0.95), (foot * 0.9, top)]), form="tube")
    tilt = rng.uniform(0.05, 0.3)
    rim = thing.add(disc(0, -top, width, width * tilt), body, 0, part=False)
    thing.add(disc(0, -top + 0.02, width * 0.86, width * tilt * 0.8), rim, 2)
    if rng.uniform() < 0.5:
        band = thing.add(box(-2, -0.35, 2, rng.uniform(0.1, 0.5)), body, 1, form="tube", inside=True)
        _print_on(rng, thing, band, rng.uniform(-0.2, 0.2), 0.0, 0.4, 2)
    elif rng.uniform() < 0.6:
        _print_on(rng, thing, body, rng.uniform(-0.2, 0.2), 0.1, 0.6, 1)
    return thing


def bottle(rng: Rng) -> Thing:
    thing, width, neck = Thing(), rng.uniform(0.3, 0.5), rng.uniform(0.08, 0.2)
    shoulder, glass = rng.uniform(-0.6, 0.0), bool(rng.uniform() < 0.45)
    profile = [
        (neck, -1.3),
        (neck, shoulder - 0.3),
        (width, shoulder),
        (width, 0.6),
        (width * 0.95, 1.2),
        (width * 0.9, 1.3),
    ]
    body = thing.body(lathe(profile), form="tube", glass=glass)
    if glass and rng.uniform() < 0.6:
        thing.add(box(-2, rng.uniform(-0.5, 0.7), 2, 2), body, 3, form="tube", inside=True)
    thing.add(box(-neck * 1.3, -1.5, neck * 1.3, -1.5 + rng.uniform(0.18, 0.4), 0.04), surface=1, form="tube")
    if rng.uniform() < 0.8:
        low, high = max(shoulder, -0.2) + 0.1, 1.0
        label = thing.add(box(-2, low, 2, high), body, 2, form="tube", inside=True)
        if rng.uniform() < 0.5:
            thing.add(box(-2, low + 0.2, 2, low + 0.42), label, 1, form="tube", inside=True)
        else:
            _print_on(rng, thing, label, 0.0, (low + high) / 2, 0.35, 1)
    return thing


def vase(rng: Rng) -> Thing:
    thing, widths = Thing(), rng.uniform(0.2, 0.75, 5)
    heights = np.linspace(-1, 1, 5)
    body = thing.body(lathe(np.stack([widths, heights], axis=1).tolist()), form="tube", glass=bool(rng.uniform() < 0.3))
    for row in rng.permutation(np.linspace(-0.8, 0.6, 4))[: rng.integers(0, 3)]:
        thing.add(box(-2, row, 2, row + rng.uniform(0.12, 0.35)), body, 1, form="tube", inside=True)
    return thing


def drinking_glass(rng: Rng) -> Thing:
    thing, width, foot = Thing(), rng.uniform(0.4, 0.65), rng.uniform(0.25, 0.5)
    if rng.uniform() < 0.5:
        thing.add(union(wire([(0, 0.2), (0, 1.0)], 0.08), disc(0, 1.02, foot, 0.09)), glass=True)
        body = thing.body(
            lathe([(width * 0.8, -1), (width, -0.5), (width * 0.6, 0.05), (0.02, 0.25)]), form="tube", glass=True
        )
        level = -0.6
    else:
        body = thing.body(lathe([(width, -1), (foot, 1)], smooth=False), form="tube", glass=True)
        level = rng.uniform(-0.7, 0.4)
    if rng.uniform() < 0.75:
        thing.add(box(-2, level, 2, 2), body, 1, form="tube", inside=True)
    return thing


def crate(rng: Rng) -> Thing:
    """A box in parallel projection: three faces, a label with a stripe, a lid."""
    thing, wide, tall = Thing(), rng.uniform(0.5, 1.0), rng.uniform(0.35, 1.0)
    dx, dy = rng.uniform(0.2, 0.6), rng.uniform(0.15, 0.45)
    front = thing.add(box(-wide, -tall, wide, tall))
    thing.add(
        poly((wide, -tall), (wide + dx, -tall - dy), (wide + dx, tall - dy), (wide, tall)), surface=int(rng.integers(2))
    )
    lid = thing.add(poly((-wide, -tall), (wide, -tall), (wide + dx, -tall - dy), (-wide + dx, -tall - dy)), surface=1)
    if rng.uniform() < 0.6:
        left, top = -wide * rng.uniform(0.3, 0.8), -tall * rng.uniform(0.2, 0.7)
        label = thing.add(box(left, top, wide * 0.6, tall * 0.6), front, 2, inside=True)
        thing.add(box(left, top + 0.1, wide * 0.6, top + 0.1 + 0.3 * tall), label, 3, inside=True)
    else:
        for x in np.linspace(-0.8, 0.8, int(rng.integers(2, 5))) * wide:
            thing.add(box(x - 0.05, -2, x + 0.05, 2), front, 2, inside=True, part=False)
    if rng.uniform() < 0.4:
        thing.add(poly((-0.2, -tall), (0.2, -tall), (0.2 + dx, -tall - dy), (-0.2 + dx, -tall - dy)), lid, 2)
    return thing


def device(rng: Rng) -> Thing:
    """A case with panels and things on the panels: a radio, an oven, a camera, a phone, a cupboard."""
    thing, tall = Thing(stands=bool(rng.uniform() < 0.6)), rng.uniform(0.4, 1.3)
    radius = rng.choice([0.0, 0.08, 0.25])
    if rng.uniform() < 0.3:
        thing.add(wire([(0.5, -tall), (rng.uniform(0.2, 1.2), -tall - rng.uniform(0.4, 1))], 0.05), surface=2)
    if rng.uniform() < 0.3:
        thing.body(union(box(-0.8, tall, -0.6, tall + 0.2), box(0.6, tall, 0.8, tall + 0.2)), 1)
    case = thing.body(box(-1, -tall, 1, tall, radius), form="pillow")
    columns = np.linspace(-0.92, 0.92, int(rng.integers(2, 4)))
    for left, right in pairwise(columns):
        rows = np.linspace(-0.9, 0.9, int(rng.integers(2, 4))) * tall
        for top, bottom in pairwise(rows):
            inset = rng.uniform(0.03, 0.1)
            edges = left + inset, top + inset, right - inset, bottom - inset
            _panel(rng, thing, case, edges)
    return thing


def _panel(rng: Rng, thing: Thing, case: int, edges: tuple[float, float, float, float]) -> None:
    left, top, right, bottom = edges
    x, y, half = (left + right) / 2, (top + bottom) / 2, min(right - left, bottom - top) / 2
    draw = rng.uniform()
    if draw < 0.2:
        dial = thing.add(disc(x, y, half * 0.85), case, 1, form="ball")
        thing.add(disc(x, y, half * rng.uniform(0.3, 0.6)), dial, 2, form="ball")
        return
    if draw < 0.3:
        return
    panel = thing.add(box(left, top, right, bottom, rng.choice([0, 0.05])), case, 1, inside=True)
    if draw < 0.45:
        return
    if draw < 0.6:
        _print_on(rng, thing, panel, x, y, half, 2)
        return
    columns, rows = (max(int((span) / (half * rng.uniform(0.6, 1.1))), 1) for span in (right - left, bottom - top))
    size = half / max(min(columns, rows), 1) * rng.uniform(0.4, 0.7)
    for row in range(min(rows, 4)):
        for column in range(min(columns, 4)):
            at = left + (right - left) * (column + 0.5) / columns, top + (bottom - top) * (row + 0.5) / rows
            knob = (
                disc(*at, size) if draw < 0.8 else box(at[0] - size, at[1] - size, at[0] + size, at[1] + size, size / 3)
            )
            thing.add(knob, panel, 2, form="ball" if draw < 0.8 else "flat", inside=True)


def wheel(rng: Rng) -> Thing:
    thing, spokes = Thing(), int(rng.integers(0, 9))
    tyre = rng.uniform(0.65, 0.9)
    if spokes > 2 and rng.uniform() < 0.5:
        thing.add(hoop(0, 0, 1, tyre), form="pillow")
        ends = np.arange(spokes) * 2 * np.pi / spokes
        width = rng.uniform(0.04, 0.14)
        thing.add(union(*(wire([(0, 0), (tyre * np.cos(a), tyre * np.sin(a))], width) for a in ends)), surface=1)
        hub = thing.add(disc(0, 0, rng.uniform(0.12, 0.3)), surface=2, form="ball")
    else:
        body = thing.body(disc(0, 0, 1), form="pillow")
        rim = thing.add(disc(0, 0, tyre), body, 1)
        hub = thing.add(disc(0, 0, tyre * rng.uniform(0.25, 0.6)), rim, 2, form="ball")
    thing.add(disc(0, 0, rng.uniform(0.05, 0.1)), hub, 3)
    return thing


def clock(rng: Rng) -> Thing:
    thing = Thing()
    body = thing.body(disc(0, 0, 1), form="pillow")
    face = thing.add(disc(0, 0, rng.uniform(0.75, 0.92)), body, 1)
    for angle in np.arange(12) * np.pi / 6:
        x, y = np.cos(angle), np.sin(angle)
        thing.add(wire([(0.62 * x, 0.62 * y), (0.72 * x, 0.72 * y)], 0.05), face, 2, part=False)
    for length, width in ((0.4, 0.09), (0.6, 0.06)):
        angle = rng.uniform(0, 2 * np.pi)
        thing.add(limb((0, 0), (length * np.cos(angle), length * np.sin(angle)), width, width / 2), face, 2)
    return thing


def car(rng: Rng) -> Thing:
    thing, roof = Thing(), rng.uniform(0.35, 0.6)
    front, back = rng.uniform(0.2, 0.5), rng.uniform(-0.95, -0.3)
    cabin = poly((back - 0.15, 0), (back, -roof), (front, -roof), (front + 0.3, 0))
    body = thing.body(union(box(-1.2, -0.02, 1.2, 0.45, 0.15), cabin), form="pillow")
    middle = (back + front) / 2
    for left, right in ((back + 0.04, middle - 0.03), (middle + 0.03, front + 0.05)):
        thing.add(
            poly((left - 0.08, -0.03), (left, -roof + 0.09), (right - 0.03, -roof + 0.09), (right, -0.03)),
            body,
            1,
            inside=True,
        )
    if rng.uniform() < 0.6:
        thing.add(box(-1.25, 0.15, 1.25, rng.uniform(0.2, 0.3)), body, 2, inside=True)
    thing.add(disc(1.1, 0.1, 0.07, 0.09), body, 3, inside=True)
    for x in (-0.7, 0.7):
        tyre = thing.add(disc(x, 0.45, 0.27), surface=2, form="pillow")
        thing.add(disc(x, 0.45, rng.uniform(0.1, 0.18)), tyre, 3, form="ball")
    return thing


def truck(rng: Rng) -> Thing:
    thing = Thing()
    load = thing.add(box(-1.3, -rng.uniform(0.5, 0.9), 0.45, 0.35), surface=1)
    if rng.uniform() < 0.6:
        _print_on(rng, thing, load, -0.4, -0.1, 0.5, 2)
    cab = thing.add(poly((0.5, 0.4), (0.5, -0.45), (0.9, -0.45), (1.15, -0.05), (1.2, 0.4)))
    thing.add(poly((0.68, -0.05), (0.68, -0.36), (0.88, -0.36), (1.07, -0.05)), cab, 2)
    thing.body(box(-1.3, 0.3, 1.2, 0.42), 3)
    for x in [*rng.choice([-1.0, -0.7, -0.2, 0.1], int(rng.integers(1, 3)), replace=False), 0.85]:
        tyre = thing.add(disc(x, 0.45, 0.22), surface=3, form="pillow")
        thing.add(disc(x, 0.45, 0.1), tyre, 2)
    return thing


def chair(rng: Rng) -> Thing:
    thing, leg = Thing(), rng.uniform(0.05, 0.1)
    for x in (-0.6, -0.35, 0.35, 0.6):
        thing.add(limb((x, 0.1), (x * rng.uniform(1, 1.2), 1.0 - (0.12 if abs(x) < 0.5 else 0)), leg, leg), surface=1)
    back = -rng.uniform(0.8, 1.2)
    if rng.uniform() < 0.5:
        bars = [box(x - 0.05, back, x + 0.05, 0) for x in np.linspace(-0.55, 0.55, int(rng.integers(2, 6)))]
        thing.add(union(*bars, box(-0.65, back - 0.1, 0.65, back + 0.1, 0.05)), surface=1)
    else:
        thing.add(box(-0.6, back, 0.6, 0.05, 0.15), surface=2, form="pillow")
    thing.add(poly((-0.55, -0.1), (0.55, -0.1), (0.72, 0.15), (-0.72, 0.15)))
    return thing


def table(rng: Rng) -> Thing:
    thing, tall, leg = Thing(), rng.uniform(0.5, 0.9), rng.uniform(0.03, 0.1)
    for x in (-0.9, -0.6, 0.6, 0.9):
        thing.add(limb((x, 0), (x, tall - (0.1 if abs(x) < 0.8 else 0)), leg, leg * rng.uniform(0.4, 1)), surface=1)
    if rng.uniform() < 0.5:
        thing.add(poly((-0.8, -0.25), (0.8, -0.25), (1.1, 0), (-1.1, 0)))
    thing.add(box(-1.1, -0.02, 1.1, 0.1), surface=0)
    return thing


def lamp(rng: Rng) -> Thing:
    thing, top = Thing(), rng.uniform(0.25, 0.5)
    thing.add(wire([(0, -0.4), (0, 1.0)], rng.uniform(0.04, 0.12)), surface=1)
    thing.add(disc(0, 1.0, rng.uniform(0.3, 0.5), 0.12), surface=1)
    low = rng.uniform(0.5, 0.8)
    shade = thing.add(poly((-top, -1), (top, -1), (low, -0.3), (-low, -0.3)), surface=0, form="tube")
    if rng.uniform() < 0.4:
        thing.add(box(-2, -0.5, 2, -0.38), shade, 2, inside=True)
    return thing


def tool(rng: Rng) -> Thing:
    """A handle and a head: hammer, brush, spoon, knife, spade."""
    thing, grip = Thing(stands=False), rng.uniform(0.06, 0.14)
    handle = thing.add(limb((0, -0.3), (0, 1.2), grip, grip * rng.uniform(0.8, 1.4)), surface=1, form="tube")
    if rng.uniform() < 0.4:
        thing.add(box(-2, 0.7, 2, rng.uniform(0.8, 1.0)), handle, 2, inside=True)
    head = int(rng.integers(5))
    if head == 0:
        thing.add(box(-0.55, -0.6, 0.4, -0.25, 0.06), form="pillow")
    elif head == 1:
        brush = thing.add(poly((-0.3, -0.3), (0.3, -0.3), (0.35, -0.9), (-0.35, -0.9)))
        thing.add(box(-2, -0.42, 2, -0.2), brush, 2, inside=True)
    elif head == 2:
        thing.add(disc(0, -0.6, rng.uniform(0.22, 0.35), 0.42), form="ball")
    elif head == 3:
        thing.add(poly((-0.12, -0.25), (0.12, -0.25), (0.16, -0.9), (0.0, -1.3), (-0.12, -1.2)))
    else:
        thing.add(hoop(0, -0.6, 0.4, rng.uniform(0.2, 0.32)), form="pillow")
    return thing


def house(rng: Rng) -> Thing:
    thing, wide, tall = Thing(), rng.uniform(0.6, 1.1), rng.uniform(0.5, 1.1)
    peak = rng.uniform(0.3, 0.7)
    if rng.uniform() < 0.5:
        thing.add(box(0.3 * wide, -peak - 0.25, 0.3 * wide + 0.2, 0), surface=2)
    wall = thing.add(box(-wide, 0, wide, tall))
    thing.add(poly((-wide - 0.12, 0.03), (rng.uniform(-0.3, 0.3), -peak), (wide + 0.12, 0.03)), surface=1)
    door = rng.uniform(-0.6, 0.5) * wide
    leaf = thing.add(box(door - 0.13, tall - 0.48, door + 0.13, tall), wall, 2, inside=True)
    thing.add(disc(door + 0.07, tall - 0.22, 0.04), leaf, 3)
    for x in np.linspace(-0.7, 0.7, int(rng.integers(2, 5))) * wide:
        if abs(x - door) > 0.3:
            window = thing.add(box(x - 0.13, 0.12, x + 0.13, 0.42), wall, 3, inside=True)
            thing.add(box(x - 0.1, 0.15, x + 0.1, 0.26), window, 1)
    return thing


def tower(rng: Rng) -> Thing:
    """Something slender: sections over each other, a tip, windows, a mast, struts at the foot."""
    thing, width = Thing(), rng.uniform(0.07, 0.22)
    levels = np.linspace(-1.0, 1.5, int(rng.integers(2, 5)))
    taper = rng.uniform(0.0, 0.5)
    if rng.uniform() < 0.5:
        foot = width * rng.uniform(1.6, 2.6)
        thing.add(poly((-width, 0.9), (width, 0.9), (foot, 1.5), (-foot, 1.5)), surface=1)
    for index, (top, bottom) in enumerate(pairwise(levels)):
        upper, lower = (width * (1 - taper * (1.5 - y) / 2.5) for y in (top, bottom))
        quad = poly((-upper, top), (upper, top), (lower, bottom), (-lower, bottom))
        section = thing.add(quad, surface=index % 2, form="tube")
        for y in np.linspace(top, bottom, int(rng.integers(2, 5)))[1:-1]:
            thing.add(box(-width * 0.4, y - 0.07, width * 0.4, y + 0.07), section, 2, inside=True)
    tip = width * (1 - taper)
    thing.add(lathe([(0.01, -1.0 - rng.uniform(0.2, 0.6)), (tip * 0.6, -1.15), (tip, -1.0)]), surface=2, form="tube")
    if rng.uniform() < 0.4:
        thing.add(wire([(0, -2.0), (0, -1.3)], 0.03), surface=1)
    return thing


def signpost(rng: Rng) -> Thing:
    thing = Thing()
    thing.add(wire([(0, -0.6), (0, 1.5)], rng.uniform(0.05, 0.12)), surface=1, form="tube")
    boards = (box(-0.6, -1.1, 0.6, -0.3), disc(0, -0.7, 0.5), poly((0, -1.2), (0.6, -0.2), (-0.6, -0.2)))
    board = thing.add(boards[rng.integers(3)])
    _print_on(rng, thing, board, 0, -0.6, rng.uniform(0.3, 0.5), 2)
    return thing


def lattice(rng: Rng) -> Thing:
    """Bars with gaps: a fence, a ladder, a grating, a net."""
    thing, width = Thing(), rng.uniform(0.04, 0.13)
    wide, tall = rng.uniform(0.4, 1.3), rng.uniform(0.4, 1.2)
    down = [box(x - width / 2, -tall, x + width / 2, tall) for x in np.linspace(-wide, wide, int(rng.integers(2, 8)))]
    across = [
        box(-wide, y - width / 2, wide, y + width / 2) for y in np.linspace(-0.8, 0.8, int(rng.integers(2, 7))) * tall
    ]
    thing.body(union(*down, *across))
    return thing


def wires(rng: Rng) -> Thing:
    """One long thin line: a cable, a rope, a twig."""
    thing = Thing(stands=False)
    knots = np.cumsum(rng.normal((0.5, 0), (0.35, 0.5), (int(rng.integers(4, 8)), 2)), axis=0)
    line = curve(knots - knots.mean(0), 40)
    thing.body(wire(line, rng.uniform(0.05, 0.16)))
    if rng.uniform() < 0.5:
        thing.add(limb(line[-1], line[-1] * 1.15, 0.12, 0.1), surface=1)
    return thing


def eyeglasses(rng: Rng) -> Thing:
    thing, squash = Thing(stands=False), rng.uniform(0.6, 1)
    for x in (-0.55, 0.55):
        thing.add(disc(x, 0, 0.42, 0.42 * squash), surface=1, glass=True)
    rims = union(*(hoop(x, 0, 0.47, 0.38, squash) for x in (-0.55, 0.55)))
    thing.add(union(rims, wire(curve([(-0.12, 0), (0, -0.08), (0.12, 0)]), 0.07)))
    return thing


def books(rng: Rng) -> Thing:
    """A pile or a row: every one a part, with a title."""
    thing, y = Thing(), 1.0
    for index in range(int(rng.integers(2, 6))):
        tall, wide, shift = rng.uniform(0.15, 0.4), rng.uniform(0.6, 1.0), rng.normal(0, 0.08)
        book = thing.add(box(shift - wide, y - tall, shift + wide, y, 0.03), surface=index % 4)
        if rng.uniform() < 0.6:
            at = shift + rng.uniform(-0.5, 0.2) * wide
            thing.add(box(at, y - 0.8 * tall, at + 0.3 * wide, y - 0.2 * tall), book, (index + 1) % 4, inside=True)
        y -= tall
    return thing


MADE_THINGS = {
    mug: 1.2, bottle: 1.2, vase: 0.7, drinking_glass: 0.8, crate: 1.2, device: 1.8, wheel: 0.7, clock: 0.6, car: 1.0,
    truck: 0.6, chair: 0.7, table: 0.6, lamp: 0.6, tool: 1.0, house: 0.7, tower: 0.6, signpost: 0.5, lattice: 0.6,
    wires: 0.6, eyeglasses: 0.4, books: 0.8,
}  # fmt: skip
