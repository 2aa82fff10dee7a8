"""What `sam-variants browse` knows without a page: marks that stay, images that are found, pictures with masks."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browse_examples import NUM_MASKS, SIZES, disc_image, labeled, write_dataset
from PIL import Image

from sam_variants.labeling.items import FailedImage
from sam_variants.spaces_demo import browse_addresses, browse_pictures
from sam_variants.spaces_demo.browse_filters import DEFAULTS, to_query
from sam_variants.spaces_demo.browse_finding import BAD, SORTS, UNMARKED, MaskFilter, Query
from sam_variants.spaces_demo.browse_library import PAGE_SIZE, Library
from sam_variants.spaces_demo.browse_marks import Mark, Marks
from sam_variants.spaces_demo.browse_status import status

PARTS = [[disc_image(number) for number in range(7)], [disc_image(number) for number in range(7, 10)]]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images in two shards; never written to."""
    return write_dataset(tmp_path_factory.mktemp("browse") / "discs", PARTS)


def keys(library: Library, **asked: Any) -> list[int]:
    """The numbers of the images that a query finds."""
    view = library.look(Query(**asked))
    return [int(view.snapshot.columns.keys[row][-8:-4]) for row in view.rows]


def test_marks_stay_and_the_last_one_counts(tmp_path: Path) -> None:
    marks, others = Marks(tmp_path), Marks(tmp_path)
    for mark in (Mark("ü/a.jpg", None, True), Mark("ü/a.jpg", 3, True), Mark("b", 1, True), Mark("b", 1, False)):
        marks.put(mark)
    assert [json.loads(line) for line in marks.path.read_text(encoding="utf-8").splitlines()][:2] == [
        {"key": "ü/a.jpg", "bad": True},
        {"key": "ü/a.jpg", "mask": 3, "bad": True},
    ]
    others.put(Mark("c", None, True))
    marks.read()
    for each in (marks, others, Marks(tmp_path)):
        assert each.images() == {"ü/a.jpg", "c"}
        assert (each.bad_masks("ü/a.jpg"), each.bad_masks("b")) == ([3], [])
        assert (each.num_images, each.num_masks, each.broken) == (2, 1, [])


def test_half_a_line_of_a_killed_process_harms_nobody(tmp_path: Path) -> None:
    whole = Mark("a", None, True).line()
    (tmp_path / "marks.jsonl").write_bytes(whole + b'{"key": "b", "ba')
    marks = Marks(tmp_path)
    assert (marks.images(), marks.broken) == ({"a"}, [])
    marks.put(Mark("c", None, True))
    for each in (marks, Marks(tmp_path)):
        assert (each.images(), each.broken) == ({"a", "c"}, [2])
    for line in (b"[]\n", b'{"key": 3, "bad": true}\n', b'{"key": "x", "mask": 0, "bad": true}\n', b"\xff\n"):
        with marks.path.open("ab") as file:
            file.write(line)
    marks.read()
    assert (marks.images(), marks.broken) == ({"a", "c"}, [2, 4, 5, 6, 7])


def test_a_file_that_was_deleted_is_forgotten(tmp_path: Path) -> None:
    marks = Marks(tmp_path)
    marks.put(Mark("a", None, True))
    marks.path.unlink()
    marks.put(Mark("b", None, True))
    assert marks.images() == {"b"}
    marks.path.write_bytes(b"")
    marks.read()
    assert marks.images() == frozenset()


def test_many_threads_mark_at_once(tmp_path: Path) -> None:
    each_has = [Marks(tmp_path) for _ in range(4)]

    def work(number: int) -> None:
        for index in range(20):
            each_has[number].put(Mark(f"{number}-{index}", None, True))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (Marks(tmp_path).num_images, Marks(tmp_path).broken) == (80, [])


def test_columns_are_those_of_the_dataset(dataset: Path) -> None:
    columns = Library(dataset).current.columns
    images = [image for part in PARTS for image in part]
    assert columns.keys == [image.item.key for image in images]
    assert list(zip(columns.heights, columns.widths, strict=True)) == [image.size for image in images]
    annotations = [image.annotations for image in images]
    assert np.diff(columns.offsets).tolist() == [len(each) for each in annotations]
    assert columns.areas.tolist() == [each["area"] for some in annotations for each in some]
    # What the command's help says of memory: 8 bytes for a mask.
    assert columns.scores.itemsize + columns.areas.itemsize == 8
    assert columns.scores.tolist() == [np.float32(each["score"]) for some in annotations for each in some]


def test_images_are_found_by_name_masks_and_size(dataset: Path, tmp_path: Path) -> None:
    library = Library(dataset)
    library.marks = Marks(tmp_path)
    assert keys(library) == list(range(10))
    assert keys(library, text=" FOLDER/000") == list(range(10))
    assert keys(library, text="7.JPG") == [7]
    assert keys(library, text="nothing") == []
    assert keys(library, num_masks=(2, 3)) == [0, 4, 5, 9]
    # Scores are 0.5, 0.6, 0.7, …: of three masks one has 0.7, of five three have.
    assert keys(library, num_masks=(1, None), masks=MaskFilter(0.7)) == [0, 3, 5, 8]
    assert keys(library, num_masks=(3, None), masks=MaskFilter(0.7)) == [3, 8]
    areas = [annotation["area"] for annotation in PARTS[0][3].annotations]
    assert keys(library, num_masks=(1, None), masks=MaskFilter(area=(areas[3], areas[3]))) == [3, 8]
    assert keys(library, megapixels=(0.0192, None)) == [0, 1, 5, 6]
    assert keys(library, megapixels=(None, 0.0155)) == [4, 9]
    library.marks.put(Mark("folder/0004.jpg", None, True))
    library.marks.put(Mark("folder/0002.jpg", 1, True))
    assert keys(library, shown=BAD) == [4]
    assert keys(library, shown=UNMARKED) == [0, 1, 2, 3, 5, 6, 7, 8, 9]


def test_images_are_sorted_and_those_without_masks_come_last(dataset: Path) -> None:
    library = Library(dataset)
    orders = {name: keys(library, sort=name) for name in SORTS}
    by_count = sorted(range(10), key=lambda number: NUM_MASKS[number % 5])
    assert orders["Fewest masks"] == by_count
    assert orders["Most masks"] == [3, 8, 0, 5, 4, 9, 2, 7, 1, 6]
    assert orders["Lowest mean score"] == [2, 7, 4, 9, 0, 5, 3, 8, 1, 6]
    assert orders["Highest mean score"] == [3, 8, 0, 5, 4, 9, 2, 7, 1, 6]
    assert orders["Smallest image"] == sorted(range(10), key=lambda number: np.prod(SIZES[number % 5]))
    assert orders["Largest image"][:4] == [0, 1, 5, 6]
    covered = [sum(a["area"] for a in image.annotations) / np.prod(image.size) for part in PARTS for image in part]
    assert orders["Largest masked area"] == np.argsort(-np.array(covered), kind="stable").tolist()
    assert orders["Smallest masked area"] == np.argsort(covered, kind="stable").tolist()
    # The mean is that of the masks that are shown.
    assert keys(library, sort="Highest mean score", masks=MaskFilter(0.85))[:3] == [3, 8, 0]


def test_masks_without_a_score_stay(tmp_path: Path) -> None:
    image = labeled("a.jpg", (60, 80), [(20, 20, 8), (50, 30, 9)], [0.3, 0.9])
    del image.annotations[0]["score"]
    library = Library(write_dataset(tmp_path / "out", [[image]]))
    assert np.isnan(library.current.columns.scores[0])
    assert library.current.shown(0, MaskFilter(0.5)) == [0, 1]
    assert library.current.shown(0, MaskFilter(0.95)) == [0]


def test_an_expected_iou_below_zero_is_hidden_only_where_that_is_asked(tmp_path: Path) -> None:
    image = labeled("a.jpg", (60, 80), [(20, 20, 8), (50, 30, 9)], [-0.02, 0.9])
    library = Library(write_dataset(tmp_path / "out", [[image]]))
    assert library.current.shown(0, Query().masks) == [0, 1]
    assert library.current.shown(0, MaskFilter(0.01)) == [1]
    assert library.current.summary(Query().masks).num_masks.tolist() == [2]


def test_pages_and_places(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sam_variants.spaces_demo.browse_library.PAGE_SIZE", 4)
    view = Library(dataset).look(Query(sort="Most masks"))
    assert PAGE_SIZE > 4
    assert (view.num_pages, view.page_rows()) == (3, [3, 8, 0, 5])
    assert view.turned(99).page_rows() == [1, 6]
    assert view.turned(-1).page == 0
    opened = view.opened(view.place_of("folder/0009.jpg"))
    assert (opened.place, opened.row, opened.page, opened.key) == (5, 9, 1, "folder/0009.jpg")
    assert view.place_of("elsewhere") is None
    assert view.opened(None).row is view.opened(10).row is None


def test_an_unfinished_run_grows(tmp_path: Path) -> None:
    parts = [*PARTS, [disc_image(10), FailedImage("folder/bad<b>.jpg", "it is cut off")]]
    folder = write_dataset(tmp_path / "out", parts, done=1)
    library = Library(folder)
    before = library.look(Query())
    assert len(before.rows) == 7
    assert "1 of 3 parts" in status(library)
    library.refresh()
    assert library.current is before.snapshot
    write_dataset(folder, parts, done=2)
    library.refresh()
    assert keys(library) == list(range(10))
    assert library.snapshot(before.snapshot.stamp) is before.snapshot
    write_dataset(folder, parts)
    library.refresh()
    told = status(library, "no <space>")
    assert "isn't finished" not in told.replace("&#x27;", "'")
    assert "1 image could not be labeled" in told
    assert "folder/bad&lt;b&gt;.jpg" in told
    assert "no &lt;space&gt;" in told


def test_a_run_is_looked_at_when_a_page_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = [FailedImage(f"bad-{number}.jpg", "it is cut off") for number in range(60)]
    parts = [PARTS[1], failed, PARTS[0]]
    folder = write_dataset(tmp_path / "out", parts, done=1)
    library = Library(folder)
    assert "could not be labeled" not in status(library)
    write_dataset(folder, parts, done=2)
    library.refresh()
    with monkeypatch.context() as patch:
        # Whatever visitors do, thousands of entries aren't read for it.
        patch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} is read"))
        told = status(library)
    assert "2 of 3 parts" in told
    assert "50 and more images could not be labeled" in told
    assert ("bad-49.jpg" in told, "bad-50.jpg" in told) == (True, False)
    write_dataset(folder, parts)
    library.refresh()
    assert "50 and more images could not be labeled" in status(library)
    assert Library(folder).run == library.run


def test_a_snapshot_that_nobody_looks_at_goes(tmp_path: Path) -> None:
    library = Library(write_dataset(tmp_path / "out", PARTS, done=1))
    stamp = library.current.stamp
    write_dataset(tmp_path / "out", PARTS)
    library.refresh()
    assert library.snapshot(stamp) is None


def test_a_small_mask_is_the_large_one_at_each_pixels_middle() -> None:
    size = (131, 207)
    discs = [(100, 60, 40), (3, 3, 2), (200, 120, 30), (9, 90, 0)]
    image = labeled("a", size, discs, [0.5] * 4)
    rows, columns = np.mgrid[: size[0], : size[1]]
    for annotation, (x, y, radius) in zip(image.annotations, discs, strict=True):
        mask = (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
        for small in (size, (50, 79), (13, 20), (1, 1)):
            middles = [((np.arange(now) + 0.5) * then / now).astype(int) for now, then in zip(small, size, strict=True)]
            found = browse_pictures.sampled(annotation, small).whole(small)
            assert (found == mask[np.ix_(*middles)]).all(), (annotation["bbox"], small)


def test_a_tile_has_the_masks_and_their_colors() -> None:
    image = labeled("a", (600, 1200), [(300, 300, 200), (900, 300, 150)], [0.9, 0.8])
    opened = browse_pictures.open_stored({"bytes": image.item.encoded, "path": None})
    plain = np.asarray(opened.convert("RGB").resize((560, 280)), dtype=int)
    for shown in ([0], [0, 1], []):
        jpeg = browse_pictures.tile(
            browse_pictures.open_stored({"bytes": image.item.encoded, "path": None}),
            image.size,
            [image.annotations[index] for index in shown],
            [index + 1 for index in shown],
        )
        drawn = np.asarray(Image.open(io.BytesIO(jpeg)), dtype=int)
        assert drawn.shape == (280, 560, 3)
        changed = [abs(drawn[140, x] - plain[140, x]).max() > 30 for x in (140, 420)]
        assert changed == [0 in shown, 1 in shown]


def test_the_canvas_gets_masks_at_a_side_that_is_given() -> None:
    image = labeled("a", (300, 600), [(300, 150, 100)], [0.75])
    (mask,) = browse_pictures.canvas_objects(image.annotations, [7], image.size, 150)
    assert (mask["id"], mask["score"], mask["area"]) == (7, 0.75, image.annotations[0]["area"])
    assert [mask[name] for name in ("x", "y", "width", "height")] == pytest.approx([200, 50, 200, 200], abs=8)


def test_addresses_are_read_as_they_were_written(dataset: Path) -> None:
    snapshot = Library(dataset).current
    for masks in (None, MaskFilter(), MaskFilter(0.85, (None, 30.0)), MaskFilter(0.1, (2.0, 1e6))):
        path, _, text = browse_addresses.picture_address(snapshot, 7, masks).partition("?")
        found = browse_addresses.PICTURE.fullmatch(f"/{path}")
        assert found is not None
        assert (found["stamp"], found["row"]) == (snapshot.stamp, "7")
        assert browse_addresses.read_masks(text) == masks
    for text in ("score=nan", "score=x", "from=3", "score=0.5&other=1", "score"):
        with pytest.raises(ValueError, match=r"no filter|could not convert|bad query"):
            browse_addresses.read_masks(text)


def test_the_bar_asks_for_what_it_says() -> None:
    assert to_query(*DEFAULTS) == Query()
    asked = to_query("a", "Most masks", BAD, 0.5, "10", "", " ", "3", ".1", "2.")
    assert asked == Query("a", "Most masks", BAD, MaskFilter(0.5, (10.0, None)), (None, 3.0), (0.1, 2.0))
    assert to_query(None, "made up", [], None, *[None] * 6) == Query()
    for wrong in ("five", "-1", "nan", "1e9", "inf"):
        with pytest.raises(ValueError, match=f"{wrong!r} is no number"):
            to_query(*DEFAULTS[:-1], wrong)
