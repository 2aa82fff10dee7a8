"""The output of a labeling run: a folder that any number of processes fill and any of them may leave at any moment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from sam_variants.labeling.items import FailedImage, LabeledImage, Source
from sam_variants.labeling.label_card import CARD_FILE, first_card
from sam_variants.labeling.label_finish import finish_folder
from sam_variants.labeling.label_journal import JOURNALS, Journal, find_journals, journal_name, remove_journals
from sam_variants.labeling.label_schema import EMBED, REFERENCE
from sam_variants.labeling.progress_entries import PROGRESS, ProgressEntries, ShardEntry, Totals
from sam_variants.labeling.run_identity import create_or_check, identity_key, read_identity
from sam_variants.labeling.shard_files import DATA, pack, shard_name, write_shard
from sam_variants.labeling.whole_files import remove_drafts, write_first

MAX_PARTS = 1_000_000  # names of six digits are in order


class LabelFolder:
    """A folder of shards with masks, at any stage between empty and finished.

    It can be pickled, and holds little in memory. Whatever process is killed at whatever moment: what is under its own
    name is whole, and the next process goes on behind the last batch that was added.

    Attributes:
        out: the folder.
        identity: settings and source, as `label.json` has them.
        rows_per_shard: images in a shard, those that failed included.
        images: "embed" or "reference".
        num_parts: of the source.
    """

    def __init__(self, out: Path, identity: Mapping[str, Any]) -> None:
        self.out, self.identity = out, dict(identity)
        self.rows_per_shard: int = identity["settings"]["rows_per_shard"]
        self.images: str = identity["settings"]["images"]
        self.num_parts: int = identity["num_parts"]
        self.key = identity_key(identity)
        self.entries = ProgressEntries(out / PROGRESS)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.out, self.identity)

    @classmethod
    def open(cls, out: Path, settings: Mapping[str, Any], source: Source, rows_per_shard: int, images: str) -> Self:
        """Begin a run, or go on with one.

        Args:
            out: a new or empty folder, or one of an earlier run.
            settings: all that decides the masks, ready for JSON.
            source: the images.
            rows_per_shard: images in a shard.
            images: "embed" puts the files of the images into the dataset, "reference" their paths or URLs.

        Raises:
            ValueError: the folder holds a run with other settings or another source, with what differs; it holds
                something else; or an argument that can't be.
            OSError: it can't be written.
        """
        if images not in (EMBED, REFERENCE):
            raise ValueError(f"images must be {EMBED!r} or {REFERENCE!r}, got {images!r}")
        if rows_per_shard < 1:
            raise ValueError(f"rows_per_shard must be 1 or more, got {rows_per_shard}")
        if len(source.parts) > MAX_PARTS:
            raise ValueError(
                f"the source has {len(source.parts):,} parts, more than {MAX_PARTS:,}: take more rows_per_shard than "
                f"{rows_per_shard}"
            )
        out = Path(out).expanduser().absolute()
        layout = {"rows_per_shard": rows_per_shard, "images": images}
        try:
            out.mkdir(parents=True, exist_ok=True)
            identity = create_or_check(out, {**settings, **layout}, source)
            for name in (DATA, PROGRESS):
                (out / name).mkdir(exist_ok=True)
            write_first(out / CARD_FILE, first_card(identity).encode())
            for folder in (out, out / DATA, out / PROGRESS):
                remove_drafts(folder)
        except OSError as error:
            if error.errno is None:
                raise
            raise OSError(error.errno, f"{error.strerror}: the output folder can't be used", str(out)) from error
        return cls(out, identity)

    @classmethod
    def attach(cls, out: Path) -> Self:
        """The folder of a run that was begun, without a look at its source.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is of another version.
        """
        out = Path(out).expanduser().absolute()
        return cls(out, read_identity(out))

    def is_done(self, part: int) -> bool:
        """Whether a part is labeled to its end; asks the disk only where that isn't known yet."""
        return self.entries.is_done(part)

    def progress(self) -> Totals:
        """The sums over all finished shards; the first call reads their entries, later ones only what is new."""
        return self.entries.totals()

    def writer(self, part: int) -> PartWriter:
        """A writer that goes on where the part was left, to be used as a context.

        Raises:
            ValueError: there is no such part.
            OSError: the folder can't be read or written.
        """
        if not 0 <= part < self.num_parts:
            raise ValueError(f"there is no part {part}: the source has {self.num_parts}")
        return PartWriter(self, part)

    def finish(self, num_parts: int, coco: bool = True) -> Totals:
        """Check all shards and write manifest, errors, COCO file, contact sheet and card.

        It may be called again, and by several processes at once: what is there and still right is left alone.

        Args:
            num_parts: of the source.
            coco: whether to write `instances.json`.

        Raises:
            ValueError: parts that aren't labeled yet.
            OSError: a shard that is missing or damaged, with what to do; or the folder can't be written.
        """
        if num_parts != self.num_parts:
            raise ValueError(f"the run has {self.num_parts} parts, got num_parts={num_parts}")
        return finish_folder(self.out, self.identity, self.entries, coco)


class PartWriter:
    """Writes the rows of one part, in order.

    Several writers of one part, in any processes, do no harm: each has its own journal, and whoever finishes a shard
    first has written it.

    Attributes:
        part: which.
        start: how many rows of the part were recorded when the writer was made: where reading has to begin. It lies
            where a batch ended.
        rows: how many are recorded now.
        is_done: whether the part is finished.
    """

    def __init__(self, folder: LabelFolder, part: int) -> None:
        self.folder, self.part = folder, part
        self._journal: Journal | None = None
        self._entries, self._journals = folder.entries, folder.out / JOURNALS
        self._chunk = self._entries.next_chunk(part)
        self._chunk_rows = 0
        last = self._entries.read(part, self._chunk - 1) if self._chunk else None
        self.is_done = last is not None and last.is_last
        remove_journals(self._journals, part, self._chunk)
        if last is not None and last.is_last:
            self._chunk, self._chunk_rows = last.chunk, last.rows + last.errors
        else:
            self._resume()
        self.start = self.rows

    def _resume(self) -> None:
        """Begin with the best journal of the shard. It is copied, for its writer may still be there."""
        while True:
            found = find_journals(self._journals, self.part, self._chunk, self.folder.key, self._first_row)
            best = found[0] if found and found[0].num_rows else None
            try:
                if best is not None:
                    self._journal = Journal(self._journals / journal_name(self.part, self._chunk), self.folder.key)
                    self._journal.copy_from(best.path, best.num_bytes)
                    self._chunk_rows = best.num_rows
            except FileNotFoundError:  # another process took it over at this moment
                self._leave()
                continue
            except BaseException:
                self._leave()
                raise
            for journal in found:
                journal.path.unlink(missing_ok=True)
            return

    @property
    def _first_row(self) -> int:
        return self._chunk * self.folder.rows_per_shard

    @property
    def rows(self) -> int:
        return self._first_row + self._chunk_rows

    def add(self, batch: Sequence[LabeledImage | FailedImage]) -> None:
        """Record the next rows of the part; all of them, or none and an error.

        Args:
            batch: it may not reach over the end of a shard, which is every `rows_per_shard` rows.

        Raises:
            ValueError: a batch that does, a part that is finished, or an image that can't be stored.
            OSError: it can't be written. What was recorded before stays.
        """
        if self.is_done:
            raise ValueError(f"part {self.part} is finished: it has {self.rows} rows")
        if not batch:
            return
        room = self.folder.rows_per_shard - self._chunk_rows or self.folder.rows_per_shard
        if len(batch) > room:
            raise ValueError(
                f"a batch ends where a shard does: {room} rows are left of part {self.part}'s shard, the batch has "
                f"{len(batch)}"
            )
        if self._chunk_rows == self.folder.rows_per_shard:
            self._close_shard(is_last=False)
        payload = pack(batch, self.rows, self.folder.images)
        if self._journal is None:
            self._journal = Journal(self._journals / journal_name(self.part, self._chunk), self.folder.key)
        self._journal.append(self.rows, len(batch), payload)
        self._chunk_rows += len(batch)

    def finish(self) -> None:
        """Mark the part as finished, behind the row that was added last.

        Raises:
            OSError: the last shard can't be written. What was recorded before stays.
        """
        if not self.is_done:
            self._close_shard(is_last=True)

    def _close_shard(self, is_last: bool) -> None:
        """Write the shard, then its entry: until that is there the journal stays."""
        try:
            if not self._entries.exists(self.part, self._chunk):
                path = self.folder.out / DATA / shard_name(self.part, self._chunk)
                facts = write_shard(path, self._payloads(), self.folder.identity)
                self._entries.write(ShardEntry.of(self.part, self._chunk, facts, is_last))
        except FileNotFoundError:  # another process finished the run meanwhile and cleaned up
            if not self._entries.exists(self.part, self._chunk):
                raise
        if self._journal is not None:
            self._journal.remove()
            self._journal = None
        if is_last:
            self.is_done = True
        else:
            self._chunk, self._chunk_rows = self._chunk + 1, 0

    def _payloads(self) -> Iterator[bytes]:
        if self._journal is not None:
            for record in self._journal.records(self._first_row):
                yield record.payload

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        """Leave the journal to the next writer."""
        self._leave()

    def _leave(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None
