"""Images with exactly known objects that evaluations are made on: unseen synthetic scenes, and photos."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from sam_variants.hub_scripts.evaluation_defaults import MAX_OBJECTS, MIN_AREA, SCENE_SIZE
from sam_variants.hub_scripts.synthetic_scenes import make_scene
from sam_variants.training.masked_image import MaskedImage

NUM_COINS = 24
# Gray levels above the background around. Otsu's 60 cuts off the dark rims; from 30 to 40 the outlines hardly move.
COIN_CONTRAST = 32


def held_out_scenes(
    count: int,
    first_seed: int,
    size: int = SCENE_SIZE,
    difficulty: float = 1.0,
    max_objects: int | None = MAX_OBJECTS,
    min_area: float = MIN_AREA,
) -> Iterator[MaskedImage]:
    """Synthetic scenes of the held-out textures, always the same for the same arguments.

    Args:
        count: number of scenes.
        first_seed: seed of the first scene; the others count on from it.
        size, difficulty: of `make_scene`.
        max_objects: at most so many objects of a scene, drawn with the scene's seed; None for all.
        min_area: smaller objects (as a share of the image) are not asked for.

    Yields:
        `count` images with one object or more; a scene that has none of the wanted size is passed over for the next.

    Raises:
        ValueError: an argument is out of range.
        ImportError: scikit-image is missing.
    """
    if count < 0 or (max_objects is not None and max_objects < 1):
        raise ValueError(f"count={count} must be 0 or more, max_objects={max_objects} 1 or more")
    if not 0 <= min_area <= 0.02:
        raise ValueError(f"min_area={min_area} is outside 0..0.02, a share of the image that most scenes have")
    seed = first_seed
    while count:
        scene = make_scene(seed, size, "held_out", difficulty)
        masks = scene.masks()
        usable = np.flatnonzero(masks.mean(axis=(1, 2)) >= min_area)
        if len(usable):
            chosen = np.random.default_rng(seed).permutation(usable)[:max_objects]
            levels = np.array(scene.levels)[chosen] if scene.levels else None
            yield MaskedImage(scene.image, masks[chosen], f"scene {seed}", levels)
            count -= 1
        seed += 1


def coins_photo() -> MaskedImage:
    """The photo of 24 Greek coins that comes with scikit-image (303×384, gray), with a mask of every coin.

    Raises:
        ImportError: scikit-image is missing.
        RuntimeError: the photo does not give 24 coins.
    """
    try:
        from skimage import data
    except ImportError as error:
        raise ImportError("the coins are scikit-image's photo: pip install scikit-image") from error
    photo = data.coins()
    return MaskedImage(cv2.cvtColor(photo, cv2.COLOR_GRAY2RGB), coin_masks(photo))


def coin_masks(photo: np.ndarray) -> np.ndarray:
    """Outline bright coins before the uneven dark ground of the photo.

    The ground is what a disc wider than a coin leaves when bright things are taken away; what is brighter by
    `COIN_CONTRAST` is coin, with holes filled and specks and burrs of less than 11 pixels removed.

    Args:
        photo: 303×384 uint8.

    Returns:
        24×303×384 bool, in rows of the image from above.

    Raises:
        RuntimeError: there are not 24 coins.
    """
    smooth = cv2.medianBlur(photo, 3)
    ground = cv2.morphologyEx(smooth, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (61, 61)))
    flat = cv2.subtract(smooth, cv2.GaussianBlur(ground, (0, 0), 15))
    bright = (flat > COIN_CONTRAST).astype(np.uint8)
    outlines, _ = cv2.findContours(bright, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.drawContours(np.zeros_like(bright), outlines, -1, 1, cv2.FILLED)
    filled = cv2.morphologyEx(filled, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (11, 11)))
    count, regions = cv2.connectedComponents(filled, connectivity=4)
    if count - 1 != NUM_COINS:
        raise RuntimeError(f"the photo of coins gives {count - 1} coins instead of {NUM_COINS}")
    return regions == np.arange(1, count)[:, None, None]
