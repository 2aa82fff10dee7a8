"""What a labeling run is: settings and source, written down first and held against every run that goes on with it."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from sam_variants.configuration.configuration_base import PACKAGE_VERSION
from sam_variants.labeling.items import Listed, Source
from sam_variants.labeling.whole_files import Draft, whole_file, write_first

FORMAT = 1
IDENTITY_FILE = "label.json"
LISTING_FILE = "source.jsonl.gz"
MAX_LINES = 20
MAX_NAMES = 5  # of each kind of change
HASH_BYTES = 8
# What may lie in an output folder that is none yet: made before the identity by another process, or by the system.
HARMLESS = {"lost+found"}


def create_or_check(out: Path, settings: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """Write the identity of a new run, or compare it with the one that the folder holds.

    Args:
        out: an empty folder, or one of an earlier run.
        settings: ready for JSON.
        source: what is labeled.

    Returns:
        The identity.

    Raises:
        ValueError: the folder holds another run, with what differs; or something else.
        OSError: it can't be written or read.
    """
    if not (out / IDENTITY_FILE).exists():
        _check_empty(out)
        with whole_file(out / LISTING_FILE) as draft:
            listing = _write_listing(draft, source.listing())
            identity = _identity(settings, source, listing)
            is_new = write_first(out / IDENTITY_FILE, (json.dumps(identity, indent=2) + "\n").encode())
            if not is_new:
                _compare(out, identity, source)
        return identity
    identity = _identity(settings, source, _listing_digest(source.listing()))
    _compare(out, identity, source)
    if not (out / LISTING_FILE).exists():
        with whole_file(out / LISTING_FILE) as draft:
            _write_listing(draft, source.listing())
    return identity


def read_identity(out: Path) -> dict[str, Any]:
    """The identity of the run in a folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is of another version of the format, or damaged.
    """
    path = out / IDENTITY_FILE
    try:
        found = json.loads(path.read_bytes())
        version = found["format"]
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{str(out)!r} is no output of sam-variants label: {IDENTITY_FILE} is missing"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{str(path)!r} is damaged: {error!r}") from error
    if version != FORMAT:
        raise ValueError(f"{str(path)!r} has format {version!r}, this version of sam-variants reads {FORMAT}")
    return found


def identity_key(identity: Mapping[str, Any]) -> bytes:
    """A checksum of an identity, 32 bytes."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).digest()


def _identity(settings: Mapping[str, Any], source: Source, listing: dict[str, Any]) -> dict[str, Any]:
    identity = {
        "format": FORMAT,
        "version": PACKAGE_VERSION,
        "settings": dict(settings),
        "source": source.description(),
        "num_parts": len(source.parts),
        "listing": listing,
    }
    return json.loads(json.dumps(identity))


def _check_empty(out: Path) -> None:
    found = [name for name in sorted(os.listdir(out)) if not name.startswith(".") and name not in HARMLESS]
    if found and IDENTITY_FILE not in found:
        raise ValueError(
            f"the output folder {str(out)!r} holds something else, such as {found[0]!r}: name a new folder, or one "
            "that sam-variants label began"
        )


def _compare(out: Path, identity: dict[str, Any], source: Source) -> None:
    stored = read_identity(out)
    if stored == identity:
        return
    before, now = _flat(stored), _flat(identity)
    lines = [
        f"{name} was {before.get(name, 'not there')!r}, is {now.get(name, 'not there')!r}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name) and not name.startswith("listing.")
    ]
    if stored["listing"] != identity["listing"]:
        lines += _listing_changes(out / LISTING_FILE, source, stored["listing"], identity["listing"])
    shown = "".join(f"\n  {line}" for line in lines[:MAX_LINES])
    more = f"\n  and {len(lines) - MAX_LINES} more" if len(lines) > MAX_LINES else ""
    raise ValueError(
        f"{str(out)!r} was begun with something else:{shown}{more}\nGo on with what it was begun with, or name a new "
        "output folder"
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _line(listed: Listed) -> bytes:
    return json.dumps(list(listed), ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def _listing_digest(listing: Iterable[Listed]) -> dict[str, Any]:
    digest, count = hashlib.sha256(), 0
    for listed in listing:
        digest.update(_line(listed))
        count += 1
    return {"entries": count, "sha256": digest.hexdigest()}


def _write_listing(draft: Draft, listing: Iterable[Listed]) -> dict[str, Any]:
    """Write a listing, and return what its digest is."""
    # without a name and a time: the same listing is the same file
    with gzip.GzipFile("", "wb", 6, draft, mtime=0) as packed:

        def written() -> Iterator[Listed]:
            for listed in listing:
                packed.write(_line(listed))
                yield listed

        found = _listing_digest(written())
    return found


def _read_listing(path: Path) -> Iterator[Listed]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield Listed(*json.loads(line))


def _listing_changes(path: Path, source: Source, stored: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What was added to a listing, removed from it and changed in it: how many, and the first names of each."""
    try:
        before = _Checksums(_read_listing(path))
    except (OSError, EOFError, ValueError, TypeError):  # it isn't there, or not whole
        return [f"source: had {stored['entries']} entries, has {found['entries']}; some of them changed"]
    now = _Checksums(source.listing())
    added = np.setdiff1d(now.names, before.names)
    removed = np.setdiff1d(before.names, now.names)
    changed = np.setdiff1d(now.entries, before.entries)
    changed = changed[~np.isin(changed, now.entries_of(added))]
    if len(added) + len(removed) + len(changed):
        return [
            f"source: {len(added)} added, {len(removed)} removed, {len(changed)} changed",
            *_first("+", source.listing(), _hash_name, added),
            *_first("-", _read_listing(path), _hash_name, removed),
            *_first("~", source.listing(), _hash_entry, changed),
        ]
    for number, (old, new) in enumerate(zip_longest(_read_listing(path), source.listing())):
        if old != new:
            return [f"source: the order changed: entry {number} was {old and old.name!r}, is {new and new.name!r}"]
    return ["source: its listing changed while it was read"]


class _Checksums:
    """A listing as two sorted arrays of numbers: 16 bytes an entry, however long the names are."""

    def __init__(self, listing: Iterable[Listed]) -> None:
        names, entries = array("Q"), array("Q")
        for listed in listing:
            names.append(_hash_name(listed))
            entries.append(_hash_entry(listed))
        self.names, self.entries = (np.frombuffer(each, np.uint64) for each in (names, entries))

    def entries_of(self, names: np.ndarray) -> np.ndarray:
        """The checksums of the entries that have these names."""
        return self.entries[np.isin(self.names, names)]


def _first(
    sign: str, listing: Iterable[Listed], checksum: Callable[[Listed], int], wanted: np.ndarray
) -> Iterator[str]:
    """Lines of the first entries whose checksums are wanted, which is sorted."""

    def is_wanted(listed: Listed) -> bool:
        place = np.searchsorted(wanted, number := np.uint64(checksum(listed)))
        return bool(place < len(wanted) and wanted[place] == number)

    return (f"source: {sign} {listed.name}" for listed in islice(filter(is_wanted, listing), MAX_NAMES))


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=HASH_BYTES).digest(), "little")


def _hash_name(listed: Listed) -> int:
    return _hash(listed.name.encode("utf-8", "backslashreplace"))


def _hash_entry(listed: Listed) -> int:
    return _hash(_line(listed))
