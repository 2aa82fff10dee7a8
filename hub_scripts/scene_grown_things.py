"""Living things and odd ones: animals, people, faces, plants; some of them for the held-out scenes alone."""

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
    leaf_outline,
    limb,
    moved,
    poly,
    turned,
    union,
    wire,
)

Rng = np.random.Generator


def plain(rng: Rng) -> Thing:
    """Any outline, often with other outlines on it, and others on these."""
    thing = Thing(stands=False)
    shape, angle = random_shape(rng)
    one = shape.placed(np.zeros(2), 2.0, angle, float(np.exp(rng.normal(0, 0.25))))
    body = thing.body(one, form="pillow", glass=bool(rng.uniform() < 0.08))
    if rng.uniform() < 0.4:
        return thing
    outline, turn = random_shape(rng)
    for _ in range(int(rng.integers(1, 4))):
        at = rng.normal(0, 0.35, 2)
        part = outline.placed(at, rng.uniform(0.15, 0.5), turn)
        index = thing.add(part, body, 1, inside=True)
        if rng.uniform() < 0.65:
            thing.add(moved(part, np.eye(2) * 0.5, at * 0.5), index, 2, inside=True)
    return thing


def joined(rng: Rng) -> Thing:
    """Two to four outlines grown together, each a part."""
    thing, at = Thing(stands=False), np.zeros(2)
    for index in range(int(rng.integers(2, 5))):
        shape, angle = random_shape(rng)
        part = thing.add(shape.placed(at, rng.uniform(0.4, 1.5), angle), surface=index % 3, form="pillow")
        if rng.uniform() < 0.5:
            shape, angle = random_shape(rng)
            thing.add(shape.placed(at, 0.25, angle), part, 3, inside=True)
        turn = rng.uniform(0, 2 * np.pi)
        at = at + 0.75 * np.array([np.cos(turn), np.sin(turn)])
    return thing


def _eye(thing: Thing, head: int, x: float, y: float, size: float, narrow: bool) -> None:
    eye = thing.add(disc(x, y, size, size * 0.8), head, 2)
    pupil = thing.add(disc(x, y, size * (0.25 if narrow else 0.5), size * 0.6), eye, 3, inside=True)
    thing.add(disc(x + 0.25 * size, y - 0.25 * size, 0.12 * size), pupil, 2, part=False)


def face(rng: Rng) -> Thing:
    """A head from the front: ears, eyes with pupils, a nose, a mouth, hair or a hat."""
    thing, wide = Thing(), rng.uniform(0.65, 0.95)
    pointed = rng.uniform() < 0.5
    for side in (-1, 1):
        if pointed:
            tip = (side * wide * rng.uniform(0.8, 1.0), -1.25)
            ear = thing.add(poly((side * wide * 0.25, -0.75), tip, (side * wide * 0.98, -0.3)), surface=0)
            middle = (side * wide * 0.7, -0.62)
            inner = [
                tuple(np.array(middle) + 0.5 * (np.array(p) - middle))
                for p in ((side * wide * 0.25, -0.75), tip, (side * wide * 0.98, -0.3))
            ]
            thing.add(poly(*inner), ear, 1)
        else:
            thing.add(disc(side * wide * 1.02, rng.uniform(-0.6, 0.1), 0.2, 0.28), surface=0)
    if rng.uniform() < 0.5:
        thing.add(poly((-0.35, 0.7), (0.35, 0.7), (1.1, 1.6), (-1.1, 1.6)), surface=1)
    head = thing.add(disc(0, 0, wide, 0.95), form="ball")
    if not pointed and rng.uniform() < 0.6:
        thing.add(box(-2, -2, 2, -rng.uniform(0.45, 0.65)), head, 1, inside=True)
    size, apart = rng.uniform(0.12, 0.2), rng.uniform(0.32, 0.45)
    for side in (-1, 1):
        _eye(thing, head, side * apart, rng.uniform(-0.25, -0.15), size, pointed)
    thing.add(poly((-0.1, 0.15), (0.1, 0.15), (0, 0.28)) if pointed else disc(0, 0.12, 0.1, 0.16), head, 1)
    thing.add(disc(0, 0.5, rng.uniform(0.15, 0.35), rng.uniform(0.05, 0.12)), head, 1)
    return thing


def person(rng: Rng) -> Thing:
    thing, wide = Thing(), rng.uniform(0.22, 0.36)
    stride = rng.uniform(0.05, 0.5)
    legs, trousers = 0.11, int(rng.integers(1, 3))
    for side in (-1, 1):
        foot = (side * stride, 1.5)
        thing.add(limb((side * 0.13, 0.35), foot, legs * 1.2, legs * 0.8), surface=trousers)
        thing.body(disc(foot[0] + 0.06, 1.52, 0.13, 0.07), 3)
    reach = rng.normal(0, 0.6)
    for side in (-1, 1):
        elbow = (side * (wide + rng.uniform(0.1, 0.35)), -0.1 + rng.normal(0, 0.15))
        hand = (elbow[0] + rng.normal(0, 0.2), elbow[1] + 0.35 * np.cos(reach))
        thing.add(union(limb((side * wide * 0.9, -0.5), elbow, 0.09, 0.08), limb(elbow, hand, 0.08, 0.06)), surface=1)
    torso = thing.add(poly((-wide, -0.62), (wide, -0.62), (wide * 0.8, 0.45), (-wide * 0.8, 0.45)), surface=1)
    if rng.uniform() < 0.5:
        shape, angle = random_shape(rng)
        thing.add(shape.placed(np.array([0, -0.2]), 0.06, angle), torso, 2, inside=True)
    head = thing.add(disc(rng.normal(0, 0.04), -0.88, 0.2, 0.25), form="ball")
    if rng.uniform() < 0.7:
        thing.add(box(-1, -1.2, 1, -rng.uniform(0.88, 1.0)), head, 2, inside=True)
    if rng.uniform() < 0.25:
        thing.add(union(box(-0.35, -1.12, 0.35, -1.02), box(-0.18, -1.32, 0.18, -1.05)), surface=2)
    return thing


def animal(rng: Rng) -> Thing:
    """Four legs, a body, a neck, a head with ears and an eye, a tail."""
    thing, leg = Thing(), rng.uniform(0.4, 0.95)
    thick, long = rng.uniform(0.26, 0.45), rng.uniform(0.6, 0.95)
    width = rng.uniform(0.06, 0.13)
    for x in (-long * 0.8, -long * 0.6, long * 0.55, long * 0.78):
        knee = (x + rng.normal(0, 0.08), 0.5 * leg + 0.1)
        foot = (knee[0] + rng.normal(0, 0.1), leg + thick * 0.6)
        thing.add(union(limb((x, 0), knee, width * 1.5, width), limb(knee, foot, width, width * 0.8)), surface=0)
    end = (-long - rng.uniform(0.2, 0.5), rng.uniform(-0.4, 0.6))
    thing.add(
        wire(curve([(-long * 0.85, -0.1), (-long - 0.2, -0.1), end]), rng.uniform(0.06, 0.2)),
        surface=int(rng.integers(2)),
    )
    at = np.array([long + rng.uniform(0.15, 0.45), -rng.uniform(0.2, 0.9)])
    size = rng.uniform(0.2, 0.32)
    thing.body(union(disc(0, 0, long, thick), limb((long * 0.7, -0.05), at, thick * 0.65, size * 0.6)), form="pillow")
    if rng.uniform() < 0.3:
        for _ in range(3):
            # every spot lies on the one before
            shape, angle = random_shape(rng)
            thing.add(
                shape.placed(rng.normal(0, (0.4, 0.1)), 0.06, angle), len(thing.pieces) - 1, 1, inside=True, part=False
            )
    for shift in (-0.1, 0.08):
        ear = [
            (shift * 2 - 0.1, -size * rng.uniform(1.3, 2.2)),
            (shift + 0.08, -size * 0.5),
            (shift - 0.08, -size * 0.5),
        ]
        thing.body(poly(*np.add(at, ear)), 1)
    snout = limb(at, np.add(at, (size * rng.uniform(1.0, 1.7), size * 0.4)), size * 0.8, size * 0.45)
    head = thing.add(union(disc(at[0], at[1], size), snout), form="pillow")
    thing.add(disc(at[0] + 0.08, at[1] - 0.05, max(size * 0.25, 0.06)), head, 2)
    return thing


def bird(rng: Rng) -> Thing:
    thing, stretch = Thing(), rng.uniform(0.6, 0.9)
    for x in (-0.08, 0.12):
        thing.add(wire([(x, 0.3), (x + 0.03, 0.9), (x + 0.15, 0.92)], 0.05), surface=2)
    thing.add(
        poly((-stretch * 0.7, -0.1), (-stretch - 0.5, rng.uniform(-0.4, 0.2)), (-stretch - 0.4, 0.3), (-0.4, 0.2)),
        surface=1,
    )
    body = thing.body(disc(0, 0, stretch, 0.42, rng.uniform(-0.4, 0.1)), form="pillow")
    wing = turned(leaf_outline(1.0, 0.28), np.pi + rng.uniform(-0.5, 0.7), 0.35, -0.1)
    feather = thing.add(wing, body, 1)
    if rng.uniform() < 0.5:
        thing.add(turned(leaf_outline(0.6, 0.12), np.pi + 0.1, 0.2, 0.0), feather, 2, inside=True)
    x, y = stretch * 0.85, -rng.uniform(0.3, 0.5)
    thing.add(poly((x + 0.15, y - 0.08), (x + 0.55, y + 0.05), (x + 0.15, y + 0.12)), surface=2)
    head = thing.add(disc(x, y, 0.27), form="ball")
    thing.add(disc(x + 0.08, y - 0.05, 0.07), head, 3)
    return thing


def fish(rng: Rng) -> Thing:
    thing, tall = Thing(stands=False), rng.uniform(0.3, 0.55)
    thing.add(poly((-0.75, 0), (-1.3, -0.45), (-1.15, 0), (-1.3, 0.45)), surface=1)
    thing.add(poly((-0.4, -tall * 0.7), (0.0, -tall - 0.35), (0.3, -tall * 0.7)), surface=1)
    body = thing.body(union(disc(0, 0, 0.9, tall)), form="pillow")
    for x in np.linspace(-0.5, 0.3, int(rng.integers(0, 5))):
        thing.add(box(x, -1, x + rng.uniform(0.08, 0.16), 1), body, 2, inside=True)
    eye = thing.add(disc(0.6, -0.1, 0.12), body, 2)
    thing.add(disc(0.6, -0.1, 0.06), eye, 3)
    thing.add(turned(leaf_outline(0.5, 0.16), np.pi - 0.6, 0.25, 0.1), body, 1)
    return thing


def potted_plant(rng: Rng) -> Thing:
    thing, tall = Thing(), rng.uniform(0.6, 1.2)
    wavy = rng.choice([0.0, 0.0, 0.15])
    for _ in range(int(rng.integers(3, 9))):
        end = np.array([rng.normal(0, 0.5), -tall * rng.uniform(0.3, 1.0)])
        line = curve([(0, 0.4), (end[0] * 0.3, 0), end])
        thing.body(wire(line, 0.05), 1)
        angle = np.arctan2(end[1], end[0]) + rng.normal(0, 0.4)
        thing.add(turned(leaf_outline(rng.uniform(0.5, 0.9), rng.uniform(0.1, 0.25), wavy), angle, *end), surface=1)
    top, low = rng.uniform(0.35, 0.55), rng.uniform(0.25, 0.4)
    pot = thing.add(poly((-top, 0.35), (top, 0.35), (low, 1.1), (-low, 1.1)), surface=0, form="tube")
    thing.add(box(-top * 1.1, 0.3, top * 1.1, 0.48), pot, 2)
    return thing


def flower(rng: Rng) -> Thing:
    thing, count = Thing(), int(rng.integers(5, 11))
    thing.add(wire(curve([(0, 0), (rng.normal(0, 0.15), 0.8), (rng.normal(0, 0.2), 1.7)]), 0.07), surface=1)
    for side in (0, np.pi)[: rng.integers(0, 3)]:
        thing.add(turned(leaf_outline(0.7, 0.15), side + rng.normal(0, 0.4), 0, 0.9), surface=1)
    length, width = rng.uniform(0.45, 0.75), rng.uniform(0.12, 0.3)
    for angle in np.arange(count) * 2 * np.pi / count:
        thing.add(turned(leaf_outline(length, width), angle, 0, 0), surface=0)
    thing.add(disc(0, 0, rng.uniform(0.18, 0.3)), surface=2, form="ball")
    return thing


def tree(rng: Rng) -> Thing:
    thing = Thing()
    thing.add(limb((0, 1.2), (rng.normal(0, 0.1), -0.2), rng.uniform(0.08, 0.18), 0.05), surface=1, form="tube")
    if rng.uniform() < 0.4:
        tiers = [
            poly((0, y - 0.7), (0.35 + 0.25 * i, y), (-0.35 - 0.25 * i, y)) for i, y in enumerate((-0.4, 0.0, 0.45))
        ]
        thing.add(union(*tiers), form="tube")
    else:
        knots = rng.normal((0, -0.4), (0.35, 0.25), (int(rng.integers(4, 9)), 2))
        thing.add(union(*(disc(x, y, *rng.uniform(0.25, 0.5, 2)) for x, y in knots)), form="ball")
    return thing


def fruit(rng: Rng) -> Thing:
    thing = Thing(stands=bool(rng.uniform() < 0.5))
    body = thing.body(union(disc(-0.25, 0, 0.62, 0.75), disc(0.25, 0, 0.62, 0.75)), form="ball")
    thing.add(wire(curve([(0, -0.6), (0.03, -0.8), (rng.normal(0, 0.15), -1.05)]), 0.08), surface=1)
    if rng.uniform() < 0.5:
        thing.add(turned(leaf_outline(0.6, 0.16), -rng.uniform(0, 1.2), 0, -0.85), surface=2)
    if rng.uniform() < 0.5:
        sticker = thing.add(disc(rng.uniform(-0.3, 0.3), rng.uniform(-0.2, 0.2), 0.2), body, 3)
        thing.add(disc(rng.uniform(-0.1, 0.1), 0, 0.09), sticker, 2, inside=True)
    return thing


def leaf(rng: Rng) -> Thing:
    thing, length = Thing(stands=False), rng.uniform(1.6, 2.2)
    outline = leaf_outline(length, rng.uniform(0.25, 0.6), rng.choice([0.0, 0.1, 0.25])) - (length / 2, 0)
    body = thing.body(turned(outline, 0), form="pillow")
    thing.add(wire([(-length / 2 - 0.3, 0), (length * 0.4, 0)], 0.05), body, 1)
    return thing


def insect(rng: Rng) -> Thing:
    """Held out: wings on both sides with spots, a body in three, feelers."""
    thing, spread = Thing(stands=False), rng.uniform(0.2, 0.5)
    for side in (0.0, np.pi):
        for lift, length in ((-0.5, 1.1), (0.5, 0.8)):
            angle = side + (lift if side == 0 else -lift)
            wing = thing.add(turned(leaf_outline(length, spread), angle, 0, lift * 0.2), surface=0)
            x, y = 0.6 * length * np.cos(angle), 0.6 * length * np.sin(angle) + lift * 0.2
            thing.add(disc(x, y, spread * 0.35), wing, 2, inside=True)
        thing.body(wire(curve([(0, -0.5), (0.2 * np.cos(side), -0.9), (0.45 * np.cos(side), -1.1)]), 0.04), 1)
    for y, size in ((0.35, 0.4), (-0.15, 0.22), (-0.5, 0.15)):
        thing.add(disc(0, y, size * 0.45, size), surface=1, form="ball")
    return thing


def umbrella(rng: Rng) -> Thing:
    """Held out: a canopy in segments, a stick with a hook."""
    thing, count = Thing(), int(rng.integers(3, 7))
    thing.add(wire(curve([(0, -0.2), (0, 1.2), (0.12, 1.4), (0.28, 1.25)]), 0.07), surface=2)
    edges = np.linspace(-1, 1, count + 1)
    for index, (left, right) in enumerate(pairwise(edges)):
        arcs = [curve([(0, -0.9), (0.75 * x, -0.6), (x, 0.0)], 10) for x in (left, right)]
        hem = curve([(left, 0.0), ((left + right) / 2, -0.12), (right, 0.0)], 6)
        thing.add(poly(*arcs[0], *hem, *arcs[1][::-1]), surface=index % 2)
    return thing


def gear(rng: Rng) -> Thing:
    """Held out: a toothed disc with a ring and a bore."""
    thing, teeth = Thing(stands=False), int(rng.integers(7, 16))
    angles = (np.arange(4 * teeth) + 0.5) * np.pi / (2 * teeth)
    radii = np.tile([1.0, 1.0, 0.8, 0.8], teeth)[:, None]
    body = thing.body(poly(*(np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii)), form="pillow")
    ring = thing.add(hoop(0, 0, 0.6, rng.uniform(0.3, 0.45)), body, 1)
    for angle in np.arange(4) * np.pi / 2:
        thing.add(disc(0.5 * np.cos(angle), 0.5 * np.sin(angle), 0.07), ring, 2)
    thing.add(disc(0, 0, rng.uniform(0.12, 0.22)), body, 2)
    return thing


GROWN_THINGS = {
    plain: 5.0, joined: 2.5, face: 1.8, person: 1.6, animal: 1.8, bird: 0.9, fish: 0.8, potted_plant: 0.8, flower: 0.8,
    tree: 0.8, fruit: 0.9, leaf: 0.7,
}  # fmt: skip
HELD_OUT_THINGS = {insect: 3.0, umbrella: 3.0, gear: 3.0}
"""Kinds that no training scene holds."""
