"""The end of a labeling run: every shard is checked, then all that describes the dataset is written."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any

from sam_variants.coco_files import CocoWriter
from sam_variants.hub.checksums import sha256_of
from sam_variants.labeling.contact_sheet import contact_sheet
from sam_variants.labeling.label_card import CARD_FILE, SHEET_FILE, finished_card, first_card
from sam_variants.labeling.label_journal import JOURNALS
from sam_variants.labeling.label_schema import to_annotation
from sam_variants.labeling.labeled_dataset import MANIFEST_FILE, LabeledDataset
from sam_variants.labeling.progress_entries import PROGRESS, ProgressEntries, ShardEntry, Totals
from sam_variants.labeling.run_identity import FORMAT
from sam_variants.labeling.shard_files import DATA
from sam_variants.labeling.whole_files import remove_drafts, whole_file, whole_path, write_whole

ERRORS_FILE, COCO_FILE = "errors.jsonl", "instances.json"
MAX_NAMED = 5
MAX_MEMORY_BYTES = 1 << 24


@dataclass
class Summary:
    """What all entries of a run say together.

    Attributes:
        shards: a line of JSON for each, without the images that failed.
        failed: a line of JSON for each image that failed.
        digest: over the lines.
    """

    shards: IO[bytes]
    failed: IO[bytes]
    digest: str = ""
    totals: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("shards", "rows", "masks", "errors"), 0))
    num_bytes: int = 0
    histogram: list[int] = field(default_factory=list)

    def add(self, entry: ShardEntry) -> bytes:
        """Count an entry, and return its line."""
        summary = entry.summary()
        line = json.dumps(summary).encode() + b"\n"
        self.shards.write(line)
        for failure in entry.failed:
            # the row behind the part that it counts in
            row = {"key": failure["key"], "part": entry.part, "row": failure["row"], "error": failure["error"]}
            self.failed.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
        self.totals["shards"] += 1
        for name in ("rows", "masks", "errors"):
            self.totals[name] += summary[name]
        self.num_bytes += entry.bytes
        self.histogram += [0] * (len(entry.histogram) - len(self.histogram))
        for place, count in enumerate(entry.histogram):
            self.histogram[place] += count
        return line


def finish_folder(out: Path, identity: Mapping[str, Any], entries: ProgressEntries, coco: bool) -> Totals:
    """Check all shards of a run and write what describes them; the manifest comes last and says that all is there.

    Raises:
        ValueError: parts that aren't labeled yet.
        OSError: shards that are missing or damaged, with what to do; or the folder can't be written.
    """
    with (
        SpooledTemporaryFile(MAX_MEMORY_BYTES, dir=str(out)) as shards,
        SpooledTemporaryFile(MAX_MEMORY_BYTES, dir=str(out)) as failed,
    ):
        summary = _summarize(entries, identity["num_parts"], Summary(shards, failed))
        manifest = out / MANIFEST_FILE
        is_known = _digest_of(manifest) == summary.digest
        _check_shards(out, summary.shards, manifest.stat().st_mtime_ns if is_known else None)
        if _digest_of(manifest) not in (None, summary.digest):
            manifest.unlink(missing_ok=True)  # of shards that were since labeled anew
        _write_errors(out / ERRORS_FILE, summary, is_known)
        has_new_coco = coco and not (is_known and (out / COCO_FILE).is_file())
        dataset = LabeledDataset(out)
        if has_new_coco:
            _write_coco(out / COCO_FILE, dataset)
        elif not is_known:
            (out / COCO_FILE).unlink(missing_ok=True)  # of shards that were since labeled anew
        if not (is_known and (out / SHEET_FILE).is_file()) and (sheet := contact_sheet(dataset)):
            write_whole(out / SHEET_FILE, sheet)
        if has_new_coco or not (is_known and _has_card(out / CARD_FILE, identity)):
            text = finished_card(out, identity, summary.totals, summary.num_bytes, summary.histogram, summary.digest)
            write_whole(out / CARD_FILE, text.encode())
        if not is_known:
            _write_manifest(manifest, summary)
    shutil.rmtree(out / JOURNALS, ignore_errors=True)
    # of a writer that is still there all shards are written already: it does without its draft
    for folder in (DATA, PROGRESS):
        remove_drafts(out / folder, 0)
    remove_drafts(out)
    totals = summary.totals
    return Totals(identity["num_parts"], totals["rows"], totals["masks"], totals["errors"])


def _summarize(entries: ProgressEntries, num_parts: int, summary: Summary) -> Summary:
    """Read all entries, and see that they are complete."""
    digest, expected = hashlib.sha256(), (0, 0)
    missing: list[int] = []
    for entry in entries.read_all(entries.in_order()):
        if (entry.part, entry.chunk) != expected:
            missing += range(expected[0], entry.part + (entry.chunk > 0))
        digest.update(summary.add(entry))
        expected = (entry.part + 1, 0) if entry.is_last else (entry.part, entry.chunk + 1)
    missing += range(expected[0], num_parts)
    if missing:
        named = ", ".join(map(str, sorted(set(missing))[:MAX_NAMED]))
        raise ValueError(
            f"{len(set(missing))} of {num_parts} parts aren't labeled yet: {named}"
            f"{', …' if len(set(missing)) > MAX_NAMED else ''}; run the same command again"
        )
    summary.digest = digest.hexdigest()
    return summary


def _digest_of(manifest: Path) -> str | None:
    """What the shards were when a manifest was written; None without one that can be read."""
    try:
        with manifest.open(encoding="utf-8") as lines:
            head = next(lines, "")
        return json.loads(f"{head.rstrip().rstrip(',')}}}")["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _has_card(path: Path, identity: Mapping[str, Any]) -> bool:
    """Whether there is a card; that of a run that has just begun is written wherever there is none."""
    return path.is_file() and path.read_bytes() != first_card(identity).encode()


def _entries(lines: IO[bytes]) -> Iterator[dict[str, Any]]:
    lines.seek(0)
    return map(json.loads, lines)


def _check_shards(out: Path, lines: IO[bytes], checked_at: int | None) -> None:
    """Compare all files with their entries; those that are older than the last check only by their size."""
    problems = []
    for entry in _entries(lines):
        path = out / entry["file"]
        try:
            found = path.stat()
        except FileNotFoundError:
            problems.append((entry, "is missing"))
            continue
        if found.st_size != entry["bytes"]:
            problems.append((entry, f"has {found.st_size} bytes instead of {entry['bytes']}"))
        elif (checked_at is None or found.st_mtime_ns >= checked_at) and (digest := sha256_of(path)) != entry["sha256"]:
            problems.append((entry, f"is damaged: its sha256 is {digest}, it was written as {entry['sha256']}"))
    if problems:
        told = "; ".join(f"{entry['file']} {problem}" for entry, problem in problems[:MAX_NAMED])
        more = f"; and {len(problems) - MAX_NAMED} more" if len(problems) > MAX_NAMED else ""
        first = f"{PROGRESS}/{Path(problems[0][0]['file']).stem}.json"
        raise OSError(
            f"{str(out)!r}: {told}{more}. To label the images of such a shard anew, delete its entry ({first}) and run "
            "the same command again"
        )


def _write_errors(path: Path, summary: Summary, is_known: bool) -> None:
    if not summary.totals["errors"]:
        path.unlink(missing_ok=True)
    elif not (is_known and path.is_file()):
        summary.failed.seek(0)
        with whole_file(path) as draft:
            shutil.copyfileobj(summary.failed, draft)


def _write_coco(path: Path, dataset: LabeledDataset) -> None:
    """All masks as one COCO dataset; images are numbered from 1, categories as they occur."""
    with whole_path(path) as draft, CocoWriter(draft) as writer:
        categories = {category["name"]: category["id"] for category in writer.categories}
        unnamed = next(iter(categories))
        number = 0
        for batch in dataset.batches():
            for row in batch.to_pylist():
                number += 1
                annotations: list[dict[str, Any]] = []
                for stored in row["objects"]:
                    name = stored["category"] or unnamed
                    if name not in categories:
                        categories[name] = len(categories) + 1
                        writer.categories.append({"id": categories[name], "name": name})
                    ids = {
                        "id": writer.num_annotations + len(annotations) + 1,
                        "image_id": number,
                        "category_id": categories[name],
                    }
                    annotations.append({**to_annotation(stored), **ids})
                size = {"width": row["width"], "height": row["height"]}
                writer.add({"id": number, "file_name": row["key"], **size}, annotations)


def _write_manifest(path: Path, summary: Summary) -> None:
    """Totals in the first line, then a line for each shard, so that nobody needs to hold it all."""
    head = {
        "format": FORMAT,
        "digest": summary.digest,
        "totals": summary.totals | {"bytes": summary.num_bytes},
        "histogram": summary.histogram,
    }
    with whole_file(path) as draft:
        draft.write(json.dumps(head)[:-1].encode() + b',\n"shards": [\n')
        summary.shards.seek(0)
        separator = b""
        for line in summary.shards:
            draft.write(separator + line.rstrip())
            separator = b",\n"
        draft.write(b"\n]}\n")
