"""Images to label from streams: tars, the Hub, URLs; and what breaks on the way."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, List, Value
from datasets import Image as ImageFeature
from label_examples import OUT, check_source, every_item, numbers, png, write_files, write_tar
from local_hub import LocalHub

from sam_variants.labeling import image_content, parquet_source, stored_files, web_content
from sam_variants.labeling.items import Source
from sam_variants.labeling.label_sources import open_label_source

CARD = b"---\nconfigs:\n- config_name: default\n  data_files: '%s'\n---\n"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `datasets` prepares goes where the test is, not into the user's cache."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers of tests don't recover with time."""
    monkeypatch.setattr(web_content, "WAIT_SECONDS", 0.01)
    monkeypatch.setattr(stored_files, "WAIT_SECONDS", 0.01)


def opened(*sources: Any, rows_per_shard: int = 3, **options: Any) -> Source:
    return open_label_source([str(source) for source in sources], rows_per_shard=rows_per_shard, out=OUT, **options)


def checked(*sources: Any, **options: Any) -> list[Any]:
    source = opened(*sources, **options)
    return check_source(source, opened(*sources, **options), pickle.loads(pickle.dumps(source)))


def sample(number: int, **others: bytes) -> list[tuple[str, bytes]]:
    return [
        (f"{number:03d}.png", png(number)),
        *((f"{number:03d}.{name}", content) for name, content in others.items()),
    ]


def test_samples_of_tars(tmp_path: Path) -> None:
    boxes = [json.dumps({"boxes": [[0, 0, n + 1, 2]]}).encode() for n in range(4)]
    members = [member for n in range(4) for member in sample(n, json=boxes[n], txt=b"a photo")]
    write_tar(tmp_path / "a.tar", [("README", b"x"), ("._000.png", b"x"), ("a dir/.x.png", b"x"), *members])
    items = checked(tmp_path / "a.tar", boxes_column="json.boxes")
    assert numbers(items) == [0, 1, 2, 3]
    assert [item.key for item in items] == [f"a.tar#{n:03d}" for n in range(4)]
    assert [item.prompts.boxes.tolist() for item in items] == [[[0, 0, n + 1, 2]] for n in range(4)]
    assert opened(tmp_path / "a.tar").description() == {"kind": "webdataset", "name": "a.tar"}
    assert [item.key for item in checked(tmp_path / "a.tar", key_column="__key__")] == [f"{n:03d}" for n in range(4)]


@pytest.mark.parametrize("ending", ["tar.gz", "tgz", "tar.xz"])
def test_compressed_tars(tmp_path: Path, ending: str) -> None:
    mode = "w:xz" if ending.endswith("xz") else "w:gz"
    write_tar(tmp_path / f"a.{ending}", [member for n in range(4) for member in sample(n)], mode)
    assert numbers(checked(tmp_path / f"*.{ending}")) == [0, 1, 2, 3]


def test_a_tar_is_passed_over_without_reading_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tar(tmp_path / "a.tar", [member for n in range(4) for member in sample(n, json=b"{}")])
    source = opened(tmp_path / "a.tar")
    read = []
    extract = tarfile.TarFile.extractfile

    def noted(self: Any, member: Any) -> Any:
        read.append(member.name)
        return extract(self, member)

    monkeypatch.setattr("tarfile.TarFile.extractfile", noted)
    assert numbers(source.read(0, 2)) == [2, 3]
    assert read == ["002.png", "003.png"]


def test_broken_members(tmp_path: Path) -> None:
    npy = io.BytesIO()
    np.save(npy, np.array([[0, 0, 1, 1]]))
    members = [
        *[("0.png", png(0)), ("0.boxes.npy", npy.getvalue())],
        *[("1.png", png(1)), ("1.boxes.npy", b"\x93NUMPY and nothing else")],
        *[("2.png", png(2))],
        *[("3.boxes.npy", npy.getvalue())],
        *[("4.png", png(4)), ("4.jpg", png(4)), ("4.boxes.npy", npy.getvalue())],
        *[("5.jpg", png(5)), ("5.seg.png", png(0)), ("5.boxes.npy", npy.getvalue())],
        *[("0.png", png(6)), ("0.boxes.npy", npy.getvalue())],
    ]
    items = checked(write_tar(tmp_path / "a.tar", members), boxes_column="boxes.npy")
    assert [item.key for item in items] == [*(f"a.tar#{n}" for n in range(6)), "a.tar#0#2"]
    assert numbers(items) == [0, None, None, None, None, 5, 6]
    errors = [str(item.error) for item in items]
    assert errors[1].startswith("the member .boxes.npy can't be read")
    assert errors[2].startswith("there is no column 'boxes.npy'")
    assert errors[3].startswith("there is no image in the sample of ['boxes.npy']; name the ending that is meant")
    assert errors[4].startswith("['png', 'jpg'] could each be the image")


@pytest.mark.parametrize(
    ("cut", "keys", "shown", "reason"),
    [
        (3 * 1024 + 530, ["000", "001", "002", "003"], [0, 1, 2, None], "unexpected end of data"),  # within a picture
        (3 * 1024 + 100, ["000", "001", "002"], [0, 1, 2], "no header where one should be"),  # within a header
        (3 * 1024, ["000", "001", "002"], [0, 1, 2], "its end is missing"),  # between two
        (100, [], [], "it is no tar"),
    ],
)
def test_tars_that_break_off(tmp_path: Path, cut: int, keys: list[str], shown: list[Any], reason: str) -> None:
    assert len(png()) <= 512
    path = write_tar(tmp_path / "a.tar", [member for n in range(5) for member in sample(n)])
    path.write_bytes(path.read_bytes()[:cut])
    write_tar(tmp_path / "b.tar", sample(9))
    items = checked(tmp_path / "*.tar")
    assert [item.key for item in items] == [*(f"a.tar#{key}" for key in keys), "a.tar#rest", "b.tar#009"]
    assert numbers(items) == [*shown, None, 9]
    assert items[-2].error.startswith(f"the tar is broken after {len(keys)} images: ")
    assert reason in items[-2].error
    if None in shown:
        assert items[-3].error == "the member .png is cut off"


def test_garbage_within_a_tar_is_not_its_end(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [member for n in range(5) for member in sample(n)])
    content = bytearray(path.read_bytes())
    content[2048:2560] = b"\xaa" * 512
    path.write_bytes(content)
    items = checked(path)
    assert items[-1].key == "a.tar#rest"
    assert "no header where one should be" in items[-1].error
    cut = tmp_path / "b.tar.gz"
    write_tar(cut, [member for n in range(50) for member in sample(n)], "w:gz")
    cut.write_bytes(cut.read_bytes()[:-100])
    items = checked(cut)
    assert items[-1].key == "b.tar.gz#rest"
    assert "end-of-stream" in items[-1].error


def test_names_that_no_tar_has(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", sample(1, json=b'{"bbox": []}'))
    with pytest.raises(ValueError, match=r"there is no 'jpg' in the first sample of a.tar, only \['json', 'png'\]"):
        opened(tmp_path / "a.tar", image_column="jpg")
    with pytest.raises(ValueError, match=r"there is no column 'json\.boxes'; there are"):
        opened(tmp_path / "a.tar", boxes_column="json.boxes")
    with pytest.raises(ValueError, match=r"recursive=True was given, but .* is tars: leave it out"):
        opened(tmp_path / "a.tar", recursive=True)


def rows(count: int, first: int = 0) -> Dataset:
    features = Features({"image": ImageFeature(), "boxes": List(List(Value("float64")))})
    values = [
        {"image": {"bytes": png(n), "path": None}, "boxes": [[0, 0, n + 1, 1]]} for n in range(first, first + count)
    ]
    return Dataset.from_list(values, features=features)


@pytest.mark.parametrize("streaming", [False, True])
def test_the_hub(hub: LocalHub, streaming: bool) -> None:
    DatasetDict(train=rows(7), test=rows(1, 7)).push_to_hub("me/photos", num_shards={"train": 2, "test": 1})
    items = checked("me/photos", split="train", streaming=streaming, boxes_column="boxes")
    assert numbers(items) == list(range(7))
    assert [item.prompts.boxes.tolist() for item in items] == [[[0, 0, n + 1, 1]] for n in range(7)]
    source = opened("me/photos", split="test", streaming=streaming)
    assert source.description()["name"] == ("me/photos, split test" if streaming else "me/photos")
    assert [(name, size is None) for name, size, _ in source.listing()] == [("test-00000-of-00001.parquet", False)]
    with pytest.raises(ValueError, match=r"'me/photos' has several splits: \['train', 'test'\]. Say which"):
        opened("me/photos", streaming=streaming)
    with pytest.raises(ValueError, match="'me/nothing' is neither a file or folder here nor a dataset on the Hub"):
        opened("me/nothing", streaming=streaming)


def test_a_new_commit_on_the_hub(hub: LocalHub) -> None:
    rows(2).push_to_hub("me/photos")
    source = opened("me/photos", streaming=True)
    before = list(source.listing())
    first = hub.repo("me/photos", "dataset").commit_at("main").oid
    hub.put("me/photos", {"notes.md": b"nothing of it is data"}, "dataset")
    assert list(opened("me/photos", streaming=True).listing()) == before
    rows(3, 5).push_to_hub("me/photos")
    assert numbers(every_item(source)) == [0, 1]
    changed = opened("me/photos", streaming=True)
    assert numbers(every_item(changed)) == [5, 6, 7]
    assert list(changed.listing()) != before
    assert numbers(checked(f"me/photos@{first}", streaming=True)) == [0, 1]


def test_a_hub_that_fails_for_a_moment(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    rows(4).push_to_hub("me/photos")
    source = opened("me/photos", streaming=True)
    reads = []
    whole = parquet_source.ParquetSource._rows

    def failing(self: Any, piece: Any, start: int) -> Iterator[Any]:
        reads.append(start)
        for number, item in enumerate(whole(self, piece, start)):
            if number == 2 and len(reads) == 1:
                raise ConnectionError("reset by peer")
            yield item

    monkeypatch.setattr(parquet_source.ParquetSource, "_rows", failing)
    assert numbers(every_item(source)) == [0, 1, 2, 3]
    assert reads[:2] == [0, 2]
    monkeypatch.setattr(
        parquet_source.ParquetSource, "_rows", lambda *_: (_ for _ in ()).throw(ConnectionError("down"))
    )
    with pytest.raises(OSError, match="down"):
        list(every_item(source))


def test_tars_and_lines_on_the_hub(hub: LocalHub, tmp_path: Path) -> None:
    rows(1).push_to_hub("me/tars")  # makes the repository
    tars = {}
    for shard in range(2):
        path = write_tar(tmp_path / "x.tar", [member for n in range(3) for member in sample(3 * shard + n)])
        tars[f"train-{shard}.tar"] = path.read_bytes()
    hub.put(
        "me/tars",
        tars | {"README.md": b"---\nconfigs:\n- config_name: default\n  data_files: '*.tar'\n---\n"},
        "dataset",
    )
    assert numbers(checked("me/tars", streaming=True)) == [0, 1, 2, 3, 4, 5]
    lines = "\n".join(json.dumps({"image": f"{n}.png", "n": n}) for n in range(3)).encode()
    rows(1).push_to_hub("me/lines")
    files = {"a.jsonl": lines, "b.jsonl": lines + b"\n{broken", **{f"{n}.png": png(n) for n in range(3)}}
    hub.put("me/lines", {**files, "README.md": CARD % b"*.jsonl"}, "dataset")
    source = opened("me/lines", streaming=True)
    assert source.description()["kind"] == "stream"
    items = checked("me/lines", streaming=True)
    assert numbers(items[:3]) == [0, 1, 2]
    assert items[-1].key == "train-1#rest"
    assert items[-1].error.startswith("the shard is broken after")


def test_rows_of_the_hub_do_not_reach_files_here(hub: LocalHub, tmp_path: Path) -> None:
    """Else a dataset could have its user's files published."""
    write_files(tmp_path, {"private.png": png()})
    Dataset.from_dict({"path": [str(tmp_path / "private.png"), f"file://{tmp_path}/private.png"]}).push_to_hub("me/spy")
    for streaming in (False, True):
        for item in every_item(opened("me/spy", streaming=streaming)):
            assert item.encoded is None
            assert item.error.endswith("which is neither there nor on the web")


def test_a_folder_of_images_on_the_hub(hub: LocalHub) -> None:
    rows(1).push_to_hub("me/folder")
    files = {f"photos/{n}.png": png(n) for n in range(5)}
    hub.put("me/folder", files | {"README.md": CARD % b"photos/*.png"}, "dataset")
    items = checked("me/folder", streaming=True)
    assert numbers(items) == [0, 1, 2, 3, 4]
    assert [item.key for item in items] == [f"{n}.png" for n in range(5)]
    keyed = [{"file_name": f"{n}.png", "boxes": [[0, 0, n + 1, 1]]} for n in range(5)]
    hub.put("me/folder", {"photos/metadata.jsonl": "\n".join(map(json.dumps, keyed)).encode()}, "dataset")
    hub.put("me/folder", {"README.md": CARD % b"photos/*"}, "dataset")
    items = checked("me/folder", streaming=True, boxes_column="boxes")
    assert numbers(items) == [0, 1, 2, 3, 4]
    assert [item.prompts.boxes.tolist() for item in items] == [[[0, 0, n + 1, 1]] for n in range(5)]
    assert len(opened("me/folder", streaming=True).parts) == 2  # of three rows at most
    assert items[0].path.endswith("/photos/0.png")


class Photos(BaseHTTPRequestHandler):
    """Serves /n.png; other paths fail in their way."""

    release = threading.Event()
    asked: list[str]

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        self.asked.append(self.path)
        name = self.path.strip("/")
        if name == "hangs.png":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x")
            self.release.wait(30)
        elif name == "drips.png":
            self.send_response(200)
            self.end_headers()
            while not self.release.wait(0.1):
                self.wfile.write(b"x")
        elif name == "busy.png" and self.asked.count(self.path) < 3:
            self.send_error(503)
        elif name == "closes.png":
            self.connection.close()
        elif name.partition(".")[0].isdigit() or name == "busy.png" or name == "a%20b%C3%BC.png?x=%201":
            content = png(int(name[:-4])) if name[0].isdigit() else png(20)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        else:
            self.send_error(404)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def photos() -> Iterator[str]:
    Photos.asked, Photos.release = [], threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Photos) as server:
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        Photos.release.set()
        server.shutdown()


def test_a_list_of_urls(tmp_path: Path, photos: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_content, "SILENT_SECONDS", 0.3)
    monkeypatch.setattr(web_content, "TOTAL_SECONDS", 0.6)
    names = ["0.png", "gone.png", "hangs.png", "1.png", "busy.png", "a bü.png?x= 1", "closes.png", "2.png", "drips.png"]
    (tmp_path / "urls.txt").write_text("\n".join(f"{photos}/{name}" for name in names), encoding="utf-8")
    source = opened("@" + str(tmp_path / "urls.txt"), rows_per_shard=20)
    items = list(every_item(source))
    assert [item.key for item in items] == [f"{photos}/{name}" for name in names]
    assert numbers(items) == [0, None, None, 1, 20, 20, None, 2, None]
    errors = [str(items[number].error) for number in (1, 2, 6, 8)]
    assert errors[0] == "it can't be fetched: HTTP 404 Not Found"
    assert errors[1].startswith("it can't be fetched: ")
    assert "time" in errors[1] or "took more" in errors[1]
    assert errors[2].startswith("it can't be fetched: ")
    assert errors[3] == "it can't be fetched: it took more than 1 seconds"
    assert Photos.asked.count("/gone.png") == 1
    assert Photos.asked.count("/closes.png") > 1
    again = pickle.loads(pickle.dumps(source))
    assert numbers(again.read(0, 3))[:3] == [1, 20, 20]


def test_urls_are_fetched_several_at_a_time_and_not_all_at_once(photos: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_content, "NUM_DOWNLOADS", 4)
    source = opened(*(f"{photos}/{n}.png" for n in range(20)), rows_per_shard=20)
    reading = source.read(0, 0)
    assert numbers([next(reading)]) == [0]
    reading.close()
    assert len(Photos.asked) <= 4
    assert numbers(source.read(0, 0)) == list(range(20))


def test_no_network_is_no_fault_of_images(photos: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One dead server among others is an error per image; where nobody answers the run stops."""
    dead = "http://127.0.0.1:9"
    source = opened(f"{dead}/a.png", f"{photos}/1.png", f"{dead}/b.png")
    items = list(every_item(source))
    assert numbers(items) == [None, 1, None]
    assert "refused" in str(items[0].error)
    with pytest.raises(OSError, match=r"http://127.0.0.1:9/a.png can't be reached, and nothing else can"):
        list(every_item(opened(f"{dead}/a.png", f"{dead}/b.png")))


def test_parquet_with_urls(tmp_path: Path, photos: str) -> None:
    Dataset.from_dict({"url": [f"{photos}/{n}.png" for n in range(5)] + [f"{photos}/gone.png"]}).to_parquet(
        tmp_path / "a.parquet"
    )
    assert numbers(checked(tmp_path / "a.parquet")) == [0, 1, 2, 3, 4, None]


def test_files_in_object_storage() -> None:
    """`memory://` stands for s3:// and its kin: the same interface of fsspec."""
    import fsspec

    storage = fsspec.filesystem("memory")
    for number, name in enumerate(["a.png", "b.PNG", "deep/c.png", "note.txt"]):
        storage.pipe(f"/bucket/{name}", png(number))
    try:
        assert numbers(every_item(opened("memory://bucket"))) == [0, 1]
        assert numbers(every_item(opened("memory://bucket", recursive=True))) == [0, 1, 2]
        assert numbers(every_item(opened("memory://bucket/*.png"))) == [0]
        tar = io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w") as writer:
            info = tarfile.TarInfo("x.png")
            info.size = len(png(3))
            writer.addfile(info, io.BytesIO(png(3)))
        storage.pipe("/bucket/s/0.tar", tar.getvalue())
        storage.pipe("/bucket/s/1.tar", tar.getvalue())
        assert numbers(checked("memory://bucket/s/{0..1}.tar")) == [3, 3]
    finally:
        storage.rm("/bucket", recursive=True)
