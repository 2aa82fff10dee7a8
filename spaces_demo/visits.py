"""What the page remembers of one visitor, and of nobody else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sam_variants import Masks
from sam_variants.spaces_demo.photos import Photo


@dataclass
class Visit:
    """The value of the page's one `gr.State`; a fresh one is copied for every visitor.

    Attributes:
        photo: what the visitor works on.
        everything: the masks that "everything" found in it.
        everything_asked: the model's name and the options that found them.
        video: a tracking job.
    """

    photo: Photo | None = None
    everything: Masks | None = None
    everything_asked: Any = None
    video: Any = None

    def start(self, photo: Photo | None) -> None:
        """Go on with another photo, and forget what belonged to the one before."""
        self.photo, self.everything, self.everything_asked = photo, None, None
