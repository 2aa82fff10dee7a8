"""Sources to label that are not what they seem: results among them, rows that point nowhere, halves of files."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from label_examples import OUT, every_item, numbers, png, write_files, write_tar

from sam_variants.labeling import web_content
from sam_variants.labeling.items import Item, Source
from sam_variants.labeling.label_sources import open_label_source


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `datasets` prepares goes where the test is, not into the user's cache."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def opened(*sources: Any, out: Path = OUT, **options: Any) -> Source:
    return open_label_source([str(source) for source in sources], rows_per_shard=3, out=out, **options)


def items_of(*sources: Any, **options: Any) -> list[Item]:
    return list(every_item(opened(*sources, **options)))


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_paths_are_relative_to_the_folder_of_their_own_table(tmp_path: Path) -> None:
    """An image of the same name lies in the folder that both tables have in common."""
    write_files(tmp_path, {"x.png": png(0), "a/x.png": png(1), "b/x.png": png(2)})
    for folder in ("a", "b"):
        for name in ("t.parquet", "t.jsonl"):
            write_table(tmp_path / folder / name, [{"file_name": "x.png"}])
    assert numbers(items_of(tmp_path / "a/t.parquet", tmp_path / "b/t.parquet")) == [1, 2]
    with pytest.raises(ValueError, match=r"the tables lie in several folders, .*: a/t.jsonl, …, b/t.jsonl. Label one"):
        opened(tmp_path / "a/t.jsonl", tmp_path / "b/t.jsonl")


def test_the_name_of_a_table_is_no_pattern(tmp_path: Path) -> None:
    write_files(tmp_path, {"f[1]/x.png": png(1), "f1/x.png": png(2)})
    write_table(tmp_path / "f[1]/t.jsonl", [{"file_name": "x.png", "key": "right"}])
    write_table(tmp_path / "f1/t.jsonl", [{"file_name": "x.png", "key": "wrong"}])
    assert [item.key for item in items_of(tmp_path / "f[1]/t.jsonl", key_column="key")] == ["right"]


@pytest.mark.parametrize("name", ["all.txt", "t.parquet", "t.jsonl"])
def test_a_folder_that_is_not_there_is_the_fault_of_one_row_or_of_the_disk(tmp_path: Path, name: str) -> None:
    write_files(tmp_path, {f"photos/{n}.png": png(n) for n in range(2)})
    paths = ["nowhere/x.png", "photos/0.png", "photos/1.png", f"{'A' * 300}/y.png"]
    if name == "all.txt":
        (tmp_path / name).write_text("\n".join(paths))
    else:
        write_table(tmp_path / name, [{"path": path} for path in paths])
    source = opened(tmp_path / name)
    items = list(every_item(source))
    assert numbers(items) == [None, 0, 1, None]
    assert items[0].error == "the file can't be read: No such file or directory"
    assert items[3].error == "the file can't be read: File name too long"
    (tmp_path / "photos").rename(tmp_path / "unmounted")
    with pytest.raises(OSError, match=r"No such file .*nowhere/x.png"):
        list(every_item(source))


def test_results_are_not_labeled(tmp_path: Path) -> None:
    """They appear in the course of the run, and would be a changed source when it goes on."""
    out = tmp_path / "out"
    write_files(tmp_path, {"a.png": png(1), "below/b.png": png(2), "out/contact_sheet.png": png(3)})
    write_table(tmp_path / "sets" / "t.parquet", [{"path": str(tmp_path / "a.png")}])
    write_table(out / "data" / "t.parquet", [{"path": str(tmp_path / "a.png")}])
    for folder in (out, tmp_path / "linked"):
        if folder != out:
            folder.symlink_to(out)
        images = items_of(tmp_path / "**" / "*.png", out=folder)
        assert [item.key for item in images] == ["a.png", "below/b.png"]
        assert [item.key for item in items_of(tmp_path / "**" / "*.parquet", out=folder)] == ["t.parquet#0"]


@pytest.mark.parametrize("kind", ["saved", "dataset"])
def test_results_do_not_go_into_a_dataset(tmp_path: Path, kind: str) -> None:
    rows = Dataset.from_list([{"image": png(1)}])
    if kind == "saved":
        rows.save_to_disk(tmp_path / kind)
    else:
        rows.to_parquet(tmp_path / kind / "data" / "train.parquet")
    with pytest.raises(ValueError, match=r"--out '.*/labeled' lies in '.*', a dataset that it would change: put it"):
        opened(tmp_path / kind, out=tmp_path / kind / "labeled")
    assert numbers(items_of(tmp_path / kind, out=tmp_path / f"{kind}_labeled")) == [1]


def test_a_dataset_with_a_readme_is_read_as_it_is_now(tmp_path: Path) -> None:
    """`datasets` alone gives what it once prepared of it."""
    write_files(tmp_path, {f"{n}.png": png(n) for n in range(2)})
    (tmp_path / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: '*'\n---\n")
    for side in (1.0, 2.0):
        rows = [{"file_name": f"{n}.png", "boxes": [[0, 0, side, side]]} for n in range(int(side))]
        write_table(tmp_path / "metadata.jsonl", rows)
        found = [item.prompts.boxes.tolist() for item in items_of(tmp_path, boxes_column="boxes") if item.prompts]
        assert found == [[[0, 0, side, side]]] * int(side)


ROW = {"image": "x.png", "objects": [{"bbox": [0.0, 0.0, 4.0, 3.0]}]}
COCO = {"images": [{"id": 5, "file_name": "x.png"}], "annotations": [{"id": 1, "image_id": 5, "bbox": [1, 1, 5, 5]}]}


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("t.parquet", {"boxes_column": "objects.boxx"}, "there is no column 'objects.boxx'; the columns are 'image'"),
        ("t.parquet", {"key_column": "objects"}, r"column 'objects' holds list<.*>, no keys: these are texts or"),
        ("empty.parquet", {}, "empty.parquet has no row"),
        ("empty.jsonl", {}, "empty.jsonl has no row"),
        ("empty.csv", {}, "empty.csv: .*no data"),
        ("broken.jsonl", {}, "broken.jsonl can't be read: JSON parse error"),
        ("{5..1}.tar", {}, r"there is nothing in the range of '{5..1}.tar': it goes up"),
        ("http://127.0.0.1:9/l.txt", {}, "http://.*/l.txt is not on this machine, as a list of images must be"),
        ("coco.json", {"boxes_column": "objects"}, "coco.json is a COCO file, in which .*: --box-format xywh"),
        ("coco.json", {"split": "val"}, "split='val' was given, but 'coco.json' is a COCO file: leave it out"),
        ("saved", {"split": "val"}, "saved is one split already: leave out split='val'"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, options: dict[str, Any], message: str
) -> None:
    files = {"x.png": png(), "empty.jsonl": b"", "empty.csv": b"path\n", "broken.jsonl": b'{"image": "x.png"}\n{bro'}
    monkeypatch.chdir(write_files(tmp_path, files | {"coco.json": json.dumps(COCO).encode()}))
    write_table(Path("t.parquet"), [ROW])
    pq.write_table(pa.table({"image": pa.array([], pa.string())}), "empty.parquet")
    Dataset.from_list([{"image": png()}]).save_to_disk("saved")
    with pytest.raises(ValueError, match=message):
        opened(source, **options)
    assert len(items_of("t.parquet", boxes_column="objects.bbox")) == 1


def test_samples_that_are_called_as_others_were_named_anew(tmp_path: Path) -> None:
    names = ["x.png", "y.png", "x.png", "x#2.png", "x.png"]
    items = items_of(write_tar(tmp_path / "a.tar", [(name, png(n)) for n, name in enumerate(names)]))
    assert numbers(items) == [0, 1, 2, 3, 4]
    assert len({item.key for item in items}) == 5


def test_tars_that_point_to_images(tmp_path: Path) -> None:
    """Those here to files beside them; those from elsewhere to no file here, or a tar could have it published."""
    import fsspec

    write_files(tmp_path, {"x.png": png(1)})
    write_tar(tmp_path / "a.tar", [("0.txt", b"x.png"), ("1.txt", str(tmp_path / "x.png").encode())])
    assert numbers(items_of(tmp_path / "a.tar", image_column="txt")) == [1, 1]
    storage = fsspec.filesystem("memory")
    storage.pipe("/bucket/a.tar", (tmp_path / "a.tar").read_bytes())
    storage.pipe("/bucket/x.png", png(2))
    try:
        items = items_of("memory://bucket/a.tar", image_column="txt")
        assert numbers(items) == [2, None]
        assert str(items[1].error).endswith("which is neither there nor on the web")
    finally:
        storage.rm("/bucket", recursive=True)


class Breaking(BaseHTTPRequestHandler):
    """Breaks off in the middle of the image: /once.png the first time, /always.png every time."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        is_broken = self.path == "/always.png" or self.asked.count(self.path) == 1
        content = png(3)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:20] if is_broken else content)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def breaking() -> Iterator[str]:
    Breaking.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Breaking) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_half_a_file_from_the_web_is_no_file(breaking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_content, "WAIT_SECONDS", 0.01)
    items = items_of(f"{breaking}/once.png", f"{breaking}/always.png")
    assert numbers(items) == [3, None]
    assert items[1].error == f"it can't be fetched: only 20 of {len(png(3))} bytes came"
    assert Breaking.asked.count("/always.png") == web_content.NUM_ATTEMPTS
