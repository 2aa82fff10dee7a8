"""The addresses of a labeled dataset's pictures: written into the page, read where they are answered."""

from __future__ import annotations

import math
import re
from urllib.parse import parse_qsl, urlencode

from sam_variants.spaces_demo.browse_finding import MaskFilter
from sam_variants.spaces_demo.browse_library import Snapshot

PICTURE = re.compile(r"/pictures/(?P<stamp>[0-9a-f]{8})/(?P<row>\d{1,12})")
# How a filter of masks is written; what doesn't filter is left out.
FIELDS = ("score", "from", "to")


def picture_address(snapshot: Snapshot, row: int, masks: MaskFilter | None = None) -> str:
    """Where the page finds a picture: large and plain, or small with the masks that a filter leaves."""
    address = f"pictures/{snapshot.stamp}/{row}"
    if masks is None:
        return address
    values = zip(FIELDS, (masks.score, *masks.area), strict=True)
    return f"{address}?{urlencode({name: repr(value) for name, value in values if value is not None})}"


def read_masks(text: str) -> MaskFilter | None:
    """The filter in an address, behind its question mark; None where there is none.

    Raises:
        ValueError: for anything that `picture_address` doesn't write.
    """
    given = {name: float(value) for name, value in parse_qsl(text, strict_parsing=bool(text))}
    if not given:
        return None
    if given.keys() - set(FIELDS) or "score" not in given or not all(map(math.isfinite, given.values())):
        raise ValueError(f"{text!r} is no filter of masks")
    return MaskFilter(given["score"], (given.get("from"), given.get("to")))
