"""A run goes on only with what it was begun with, and says what is different."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from labeled_rows import SETTINGS, Rows, files_in, label_all, label_part, open_folder

from sam_variants.labeling import label_folder, run_identity, whole_files
from sam_variants.labeling.label_folder import LabelFolder
from sam_variants.labeling.labeled_dataset import LabeledDataset

SOURCE = Rows((6, 3))


def names(**changes: tuple[int, str]) -> dict[str, tuple[int | None, str]]:
    """What the source lists: twenty files; a change of None leaves one out."""
    listed: dict[str, Any] = {f"photo{number}.png": (number, "monday") for number in range(20)}
    return {name: value for name, value in (listed | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "large"}, "settings.model was 'tiny', is 'large'"),
        ({"generation": {"points_per_side": 3}}, "settings.generation.points_per_side was 2, is 3"),
        ({"generation": {"crops": 1, "points_per_side": 2}}, "settings.generation.crops was 'not there', is 1"),
        ({"rows_per_shard": 5}, "settings.rows_per_shard was 4, is 5"),
        ({"images": "reference"}, "settings.images was 'embed', is 'reference'"),
        ({"source": Rows((6, 3), kind="tars")}, "source.kind was 'rows', is 'tars'"),
        ({"source": Rows((6, 2))}, "source: 0 added, 1 removed, 0 changed\n  source: - 8.png"),
        ({"source": Rows((6, 2, 1))}, "num_parts was 2, is 3"),
    ],
)
def test_what_changed_is_refused_by_name(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    open_folder(tmp_path / "out", SOURCE)
    before = files_in(tmp_path / "out")
    with pytest.raises(ValueError, match="was begun with something else") as refusal:
        open_folder(tmp_path / "out", **({"source": SOURCE} | change))
    assert f"\n  {message}\n" in str(refusal.value)
    assert str(refusal.value).count("\n") == message.count("\n") + 2
    assert files_in(tmp_path / "out") == before
    open_folder(tmp_path / "out", SOURCE)


def test_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_folder(tmp_path / "out", SOURCE)
    monkeypatch.setattr(run_identity, "PACKAGE_VERSION", "99.0")
    with pytest.raises(ValueError, match=r"version was '.*', is '99.0'"):
        open_folder(tmp_path / "out", SOURCE)
    identity = json.loads((tmp_path / "out" / "label.json").read_text())
    (tmp_path / "out" / "label.json").write_text(json.dumps(identity | {"format": 2}))
    with pytest.raises(ValueError, match="has format 2, this version of sam-variants reads 1"):
        LabelFolder.attach(tmp_path / "out")


def test_of_a_changed_source_the_names_are_told(tmp_path: Path) -> None:
    open_folder(tmp_path / "out", Rows((20,), names()))
    now = names(
        **{"photo3.png": None, "photo5.png": (6, "monday"), "photo7.png": (7, "friday")},
        **{f"new{number}.png": (1, "friday") for number in range(30)},
    )
    with pytest.raises(ValueError, match="something else") as refusal:
        open_folder(tmp_path / "out", Rows((20,), now))
    lines = [line.strip() for line in str(refusal.value).splitlines()[1:-1]]
    assert lines == [
        "source: 30 added, 1 removed, 2 changed",
        *[f"source: + new{number}.png" for number in range(5)],
        "source: - photo3.png",
        "source: ~ photo5.png",
        "source: ~ photo7.png",
    ]


def test_of_a_source_in_another_order_the_first_entry_is_told(tmp_path: Path) -> None:
    open_folder(tmp_path / "out", Rows((20,), names()))
    turned = dict(sorted(names().items(), reverse=True))
    with pytest.raises(ValueError, match=r"the order changed: entry 0 was 'photo0.png', is 'photo9.png'"):
        open_folder(tmp_path / "out", Rows((20,), turned))


def test_many_differences_are_cut_short(tmp_path: Path) -> None:
    open_folder(tmp_path / "out", SOURCE)
    with pytest.raises(ValueError, match="and 10 more") as refusal:
        open_folder(tmp_path / "out", SOURCE, **{f"option{number}": number for number in range(30)})
    assert len(str(refusal.value).splitlines()) == 1 + 20 + 1 + 1


def test_names_that_are_no_text_are_listed(tmp_path: Path) -> None:
    strange = {"caf\udce9.png": (1, "then"), "line\nbreak.png": (None, "then"), 'quo"te.png': (2, "then")}
    open_folder(tmp_path / "out", Rows((3,), strange))
    open_folder(tmp_path / "out", Rows((3,), strange))
    with pytest.raises(ValueError, match="source: - caf"):
        open_folder(tmp_path / "out", Rows((3,), {"a.png": (1, "then")}))


def test_without_its_listing_a_run_goes_on_and_a_difference_is_told_in_numbers(tmp_path: Path) -> None:
    open_folder(tmp_path / "out", SOURCE)
    listing = tmp_path / "out" / "source.jsonl.gz"
    before = listing.read_bytes()
    listing.write_bytes(before[:40])
    with pytest.raises(ValueError, match="had 9 entries, has 8; some of them changed"):
        open_folder(tmp_path / "out", Rows((6, 2)))
    listing.unlink()
    open_folder(tmp_path / "out", SOURCE)
    assert listing.read_bytes() == before
    assert json.loads(gzip.decompress(before).splitlines()[3]) == ["3.png", 3, "then"]


def test_two_processes_that_begin_at_once_agree_on_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one looks before the first has written anything, and writes behind it."""
    original = run_identity.write_first

    def second(path: Path, data: bytes) -> bool:
        monkeypatch.setattr(run_identity, "write_first", original)
        open_folder(tmp_path / "out", SOURCE)
        return original(path, data)

    monkeypatch.setattr(run_identity, "write_first", second)
    open_folder(tmp_path / "out", SOURCE)
    (tmp_path / "out" / "label.json").unlink()
    for name in ("README.md", "source.jsonl.gz", "data", "progress"):
        path = tmp_path / "out" / name
        path.rmdir() if path.is_dir() else path.unlink()
    monkeypatch.setattr(run_identity, "write_first", second)
    with pytest.raises(ValueError, match=r"settings\.model was 'tiny', is 'large'"):
        open_folder(tmp_path / "out", SOURCE, model="large")
    assert LabelFolder.attach(tmp_path / "out").identity["settings"]["model"] == "tiny"


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    label_all(tmp_path / "out", SOURCE)
    with pytest.raises(ValueError, match=r"settings\.model"):
        open_folder(tmp_path / "out", SOURCE, model="large")
    assert not whole_files.write_first(tmp_path / "out" / "label.json", b"{}")
    assert len(LabeledDataset(tmp_path / "out")) == 8


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds something else, such as 'notes.txt': name a new folder"):
        open_folder(tmp_path, SOURCE)
    assert files_in(tmp_path).keys() == {"notes.txt"}
    with pytest.raises(OSError, match="the output folder can't be used"):
        open_folder(tmp_path / "notes.txt", SOURCE)


def test_hidden_files_and_what_a_disk_holds_by_itself_do_no_harm(tmp_path: Path) -> None:
    """A clone of an empty repository, or the root of a disk."""
    (tmp_path / ".git").mkdir()
    (tmp_path / ".gitattributes").write_text("")
    (tmp_path / "lost+found").mkdir()
    label_all(tmp_path, SOURCE)
    assert (tmp_path / "manifest.json").is_file()


def test_a_read_only_disk_is_an_error_that_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(OSError, match=r"Read-only file system: the output folder can't be used: '.*out'") as error:
        open_folder(tmp_path / "out", SOURCE)
    assert error.value.errno == 30


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    for attach in (LabelFolder.attach, LabeledDataset):
        with pytest.raises(FileNotFoundError, match="is no output of sam-variants label"):
            attach(tmp_path)
    (tmp_path / "label.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        LabelFolder.attach(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": "copy"}, "images must be 'embed' or 'reference', got 'copy'"),
        ({"rows_per_shard": 0}, "rows_per_shard must be 1 or more, got 0"),
        ({"source": Rows((1, 1, 1))}, "the source has 3 parts, more than 2: take more rows_per_shard than 4"),
    ],
)
def test_arguments_that_can_not_be(
    arguments: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_folder, "MAX_PARTS", 2)
    with pytest.raises(ValueError, match=message):
        open_folder(tmp_path / "out", **({"source": SOURCE} | arguments))
    assert not (tmp_path / "out").exists()


def test_settings_and_source_are_in_every_file(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "out", SOURCE)
    label_part(folder, SOURCE, 1)
    metadata = pq.read_schema(folder.out / "data" / "000001-00000.parquet").metadata
    identity = json.loads(metadata[b"sam_variants"])
    assert identity == folder.identity == json.loads((folder.out / "label.json").read_text())
    assert identity["settings"] == SETTINGS | {"rows_per_shard": 4, "images": "embed"}
    assert identity["source"] == {"kind": "rows", "name": "numbers"}
    assert identity["listing"]["entries"] == 9
