"""A labeling run as it is sent to whoever works on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sam_variants.labeling.items import Source
from sam_variants.labeling.label_folder import LabelFolder
from sam_variants.labeling.label_settings import LabelSettings


@dataclass(frozen=True)
class LabelJob:
    """What is labeled, how, and where the rows go. It can be pickled.

    Args:
        out: the folder of the dataset.
        settings: what is done to each image.
        source: the images.
        read_threads: threads that decode images ahead of the model.
        read_ahead: bytes that the images may take which are decoded, or being decoded, at once.
    """

    out: Path
    settings: LabelSettings
    source: Source
    read_threads: int = 4
    read_ahead: int = 10**9

    def open(self) -> LabelFolder:
        """Make the output folder, or go on with the one that is there.

        Raises:
            ValueError: when it holds another run, with what differs.
            OSError: when it can't be written.
        """
        settings = self.settings
        return LabelFolder.open(self.out, settings.identity(), self.source, settings.rows_per_shard, settings.images)

    def attach(self) -> LabelFolder:
        """The output folder that `open` made, here or on another machine."""
        return LabelFolder.attach(self.out)
