"""The demo's core: prompts are read with every check, the photo is encoded once, answers are the package's own."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import torch
from transformers import pipeline

from sam_variants import Masks, PromptableSegmentationPipeline, load_checkpoint
from sam_variants.spaces_demo import limits, segmenting
from sam_variants.spaces_demo.caches import BoundedCache
from sam_variants.spaces_demo.models import Loaded, ModelStore, store
from sam_variants.spaces_demo.photos import Photo, open_photo
from sam_variants.spaces_demo.prompts import ObjectPrompts, read_objects, read_value
from sam_variants.spaces_demo.segmenting import answerable, embeddings, segment_objects
from sam_variants.spaces_demo.visits import Visit

COINS = Path(__file__).resolve().parent.parent / "spaces_demo" / "examples" / "coins.jpg"
COIN, BACKGROUND = (155, 50), (100, 10)
CLICK = ObjectPrompts(1, "coin", (COIN,), (1,))
TWO_CLICKS = ObjectPrompts(2, "not the background", (COIN, BACKGROUND), (1, 0))
BOX = ObjectPrompts(5, "box", box=(130, 20, 180, 80))
BOX_AND_CLICK = ObjectPrompts(9, "both", ((150, 45),), (1,), (130, 20, 180, 80))
SEVERAL = (CLICK, TWO_CLICKS, BOX, BOX_AND_CLICK)


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return store().get("embedded")


@pytest.fixture(scope="module", params=["by name", "by hand"])
def pipe(request: pytest.FixtureRequest) -> PromptableSegmentationPipeline:
    """The package's own, and as "copy as Python" makes it."""
    if request.param == "by name":
        return pipeline("promptable-segmentation", model=store().get("embedded").source)  # type: ignore[call-overload]
    model: Any = load_checkpoint(store().get("embedded").source)
    return PromptableSegmentationPipeline(model=model.fuse())


@pytest.fixture
def photo() -> Photo:
    segmenting._EMBEDDINGS.clear()
    return open_photo(COINS)


def asked(pipe: PromptableSegmentationPipeline, objects: tuple[ObjectPrompts, ...], **options: Any) -> Masks:
    return pipe(
        str(COINS),
        points=[[list(point) for point in item.points] or None for item in objects],
        labels=[list(item.labels) or None for item in objects],
        boxes=[item.box and list(item.box) for item in objects],
        **options,
    )


@pytest.mark.parametrize("objects", [(CLICK,), (TWO_CLICKS,), (BOX_AND_CLICK, CLICK), SEVERAL], ids=len)
def test_answers_are_those_of_the_pipeline(
    objects: tuple[ObjectPrompts, ...], loaded: Loaded, pipe: PromptableSegmentationPipeline, photo: Photo
) -> None:
    found, expected = segment_objects(loaded, photo, objects), asked(pipe, objects)
    assert torch.equal(found.data, expected.data)
    assert torch.equal(found.scores, expected.scores)
    assert found.object_ids is not None
    assert found.object_ids.tolist() == [item.id for item in objects]
    assert found.data[0, COIN[1], COIN[0]]
    assert not found.data[0, BACKGROUND[1], BACKGROUND[0]]


@pytest.mark.parametrize("candidate", [0, 1, 2])
def test_a_candidate_is_the_pipelines_of_that_rank(
    candidate: int, loaded: Loaded, pipe: PromptableSegmentationPipeline, photo: Photo
) -> None:
    objects = (CLICK, replace(TWO_CLICKS, candidate=candidate), BOX)
    found = segment_objects(loaded, photo, objects)
    plain, multiple = asked(pipe, objects), asked(pipe, objects, multimask=True)
    assert torch.equal(found.data[1], multiple.data[3 + candidate])
    assert found.scores[1] == multiple.scores[3 + candidate]
    assert torch.equal(found.data[[0, 2]], plain.data[[0, 2]])


def test_masks_of_another_size_are_the_same_logits(loaded: Loaded, photo: Photo) -> None:
    whole, half = segment_objects(loaded, photo, SEVERAL), segment_objects(loaded, photo, SEVERAL, size=(152, 192))
    assert half.size == (152, 192)
    assert torch.equal(whole.scores, half.scores)
    assert torch.allclose(whole.areas / (303 * 384), half.areas / (152 * 192), rtol=0.05)


def test_without_objects_there_are_no_masks(loaded: Loaded, photo: Photo) -> None:
    masks = segment_objects(loaded, photo, [])
    assert len(masks) == 0
    assert masks.size == (photo.height, photo.width)
    assert len(segmenting._EMBEDDINGS) == 0


def test_more_prompts_than_one_pass_takes(loaded: Loaded, photo: Photo, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = (TWO_CLICKS, replace(TWO_CLICKS, id=3, points=(COIN,) * 20, labels=(1,) * 20), CLICK, BOX_AND_CLICK, BOX)
    assert segmenting._passes(objects) == [[0, 1, 2, 3, 4]]
    whole = segment_objects(loaded, photo, objects)
    monkeypatch.setattr(limits, "TOKENS_PER_PASS", 10)
    assert segmenting._passes(objects) == [[4, 2, 3], [0], [1]]
    parts = segment_objects(loaded, photo, objects)
    assert torch.equal(whole.object_ids, parts.object_ids)  # type: ignore[arg-type]
    assert torch.allclose(whole.scores, parts.scores, atol=1e-5)  # type: ignore[arg-type]
    assert (whole.data != parts.data).sum() <= 5  # padding takes part in nothing, but for rounding


def test_an_object_needs_a_place() -> None:
    assert all(answerable(item) for item in SEVERAL)
    assert not answerable(ObjectPrompts(1, "", (BACKGROUND,), (0,)))
    assert not answerable(ObjectPrompts(1, ""))


def counted(monkeypatch: pytest.MonkeyPatch, delay: threading.Event | None = None) -> list[Loaded]:
    """Those who encode from now on; each waits for the event."""
    encode, calls = segmenting._encode, []

    def encode_counted(loaded: Loaded, pixel_values: torch.Tensor) -> segmenting.Levels:
        calls.append(loaded)
        if delay is not None:
            assert delay.wait(10)
        return encode(loaded, pixel_values)

    monkeypatch.setattr(segmenting, "_encode", encode_counted)
    return calls


def test_a_photo_is_encoded_once(loaded: Loaded, photo: Photo, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    for objects in SEVERAL:
        segment_objects(loaded, photo, [objects])
    segment_objects(loaded, open_photo(COINS), SEVERAL)  # the same content, opened by somebody else
    assert len(calls) == 1
    segment_objects(store().get("embedded-video"), photo, SEVERAL)
    assert len(calls) == 2


def test_many_clicks_at_once_encode_once_and_get_their_own_answers(
    loaded: Loaded, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [(60 + 10 * (number % 25), 40 + 12 * (number // 25)) for number in range(50)]
    clicks = [ObjectPrompts(number + 1, "", (place,), (1,)) for number, place in enumerate(places)]
    expected = [segment_objects(loaded, photo, [click]) for click in clicks]
    segmenting._EMBEDDINGS.clear()
    may_encode = threading.Event()
    calls = counted(monkeypatch, may_encode)
    with ThreadPoolExecutor(8) as threads:
        answers = [threads.submit(segment_objects, loaded, photo, [click]) for click in clicks]
        may_encode.set()
        found = [answer.result() for answer in answers]
    assert len(calls) == 1
    for masks, others in zip(found, expected, strict=True):
        assert torch.equal(masks.data, others.data)
        assert torch.equal(masks.scores, others.scores)


@pytest.mark.parametrize("name", ["embedded", "embedded-video"])
def test_clicks_and_everything_at_once_disturb_nothing(name: str, photo: Photo) -> None:
    loaded, options = store().get(name), {"points_per_side": 8}
    alone, click_alone = loaded.generator(photo.image(), **options), segment_objects(loaded, photo, SEVERAL)
    assert len(alone) > 3
    fresh = ModelStore().get(name)  # nothing of it was used before
    with ThreadPoolExecutor(6) as threads:
        clicks = [threads.submit(segment_objects, fresh, photo, SEVERAL) for _ in range(12)]
        many = [threads.submit(fresh.generator, photo.image(), **options) for _ in range(2)]
        assert all(torch.equal(answer.result().data, alone.data) for answer in many)
        assert all(torch.equal(answer.result().data, click_alone.data) for answer in clicks)


def test_a_model_that_is_being_loaded_disturbs_nothing(loaded: Loaded, photo: Photo) -> None:
    """transformers sets the default dtype meanwhile, for all threads."""
    options = {"points_per_side": 8}
    alone, click_alone = loaded.generator(photo.image(), **options), segment_objects(loaded, photo, SEVERAL)
    torch.set_default_dtype(torch.bfloat16)
    try:
        segmenting._EMBEDDINGS.clear()
        assert torch.equal(loaded.generator(photo.image(), **options).data, alone.data)
        assert torch.equal(segment_objects(loaded, photo, SEVERAL).data, click_alone.data)
    finally:
        torch.set_default_dtype(torch.float32)


def test_embeddings_are_bounded_in_bytes(
    loaded: Loaded, photo: Photo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    size = sum(level.nbytes for level in embeddings(loaded, photo))
    cache: BoundedCache[segmenting.Levels] = BoundedCache(2 * size, segmenting._EMBEDDINGS.size_of)
    monkeypatch.setattr(segmenting, "_EMBEDDINGS", cache)
    calls = counted(monkeypatch)
    photos = []
    for shade in (10, 20, 30):
        photo.image().point(lambda value, shade=shade: min(value + shade, 255)).save(tmp_path / f"{shade}.png")
        photos.append(open_photo(tmp_path / f"{shade}.png"))
    for opened in (photos[0], photos[1], photos[0], photos[2], photos[0]):
        embeddings(loaded, opened)
    assert (len(calls), len(cache), cache.used) == (3, 2, 2 * size)
    embeddings(loaded, photos[1])  # the one that was not used for longest
    assert len(calls) == 4


def value_of(photo: Photo, *objects: Any, **fields: Any) -> dict[str, Any]:
    return {"photo": photo.id, "version": 3, "selected": 1, "objects": list(objects), **fields}


OBJECT: dict[str, Any] = {
    "id": 1,
    "name": " A \n coin ",
    "points": [[155, 50], [100.0, 10]],
    "labels": [1, 0],
    "box": None,
    "candidate": None,
}


def test_prompts_are_read(photo: Photo) -> None:
    empty = {"id": 2, "name": "", "points": [], "labels": [], "box": None, "candidate": 2}
    boxed = {"id": 3, "points": [], "labels": [], "box": [0, 0, photo.width, photo.height], "candidate": 1}
    first, second = read_value(value_of(photo, OBJECT, empty, boxed), photo)
    assert first == ObjectPrompts(1, "A coin", ((155, 50), (100, 10)), (1, 0))
    assert all(isinstance(number, int) for number in first.points[1])
    assert second == ObjectPrompts(3, "Object 3", box=(0, 0, 384, 303), candidate=1)
    assert read_value(None, photo) == []
    hash(first)


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    "changes",
    [
        {"id": 0},
        {"id": True},
        {"id": "1"},
        {"id": 2**31},
        {"id": 1.5},
        {"name": 5},
        {"name": "x" * (limits.MAX_NAME + 1)},
        {"points": None},
        {"points": "ab"},
        {"points": {"0": [1, 1]}},
        {"points": [[1, 1]]},
        {"points": [[1, 1], [1]]},
        {"points": [[1, 1], [1, 1, 1]]},
        {"points": [[1, 1], [1, "1"]]},
        {"points": [[1, 1], [1, None]]},
        {"points": [[1, 1], [1, True]]},
        {"points": [[1, 1], [1.5, 1]]},
        {"points": [[1, 1], [NAN, 1]]},
        {"points": [[1, 1], [INFINITY, 1]]},
        {"points": [[1, 1], [-1, 1]]},
        {"points": [[1, 1], [384, 1]]},
        {"points": [[1, 1], [1, 303]]},
        {"points": [[1, 1], [10**400, 1]]},
        {"points": [[1, 1], [10**5000, 1]]},
        {"labels": [1]},
        {"labels": [1, 2]},
        {"labels": [1, -1]},
        {"labels": [1, True]},
        {"labels": [1, NAN]},
        {"box": []},
        {"box": [1, 1, 5]},
        {"box": [1, 1, 5, NAN]},
        {"box": [1, 1, 385, 5]},
        {"box": [1, -1, 5, 5]},
        {"box": [5, 1, 5, 5]},
        {"box": [5, 6, 9, 5]},
        {"box": [[1, 1], [5, 5]]},
        {"candidate": 3},
        {"candidate": "0"},
        {"candidate": True},
        {"candidate": -1},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_what_no_canvas_sends_is_refused(changes: dict[str, Any], photo: Photo) -> None:
    with pytest.raises(gr.Error) as caught:
        read_value(value_of(photo, {**OBJECT, **changes}), photo)
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("value", ["text", 5, [], [OBJECT], {"objects": [OBJECT]}, {"photo": "another"}], ids=str)
def test_a_value_that_is_none_is_refused(value: Any, photo: Photo) -> None:
    with pytest.raises(gr.Error):
        read_value(value, photo)
    with pytest.raises(gr.Error, match="upload one"):
        read_value(value, None)


@pytest.mark.parametrize("version", [None, "1", 0.5, NAN, INFINITY, 2**60, True, [1]], ids=str)
def test_a_version_that_is_none_is_refused(version: Any, photo: Photo) -> None:
    with pytest.raises(gr.Error, match="version"):
        read_value(value_of(photo, OBJECT, version=version), photo)


@pytest.mark.parametrize("objects", [None, {}, "ab", [None], ["x"], [[OBJECT]], [OBJECT, OBJECT]], ids=str)
def test_objects_that_are_none_are_refused(objects: Any, photo: Photo) -> None:
    with pytest.raises(gr.Error, match="Reload"):
        read_value(value_of(photo, objects=objects), photo)


def deep(levels: int) -> Any:
    nested: Any = 1
    for _ in range(levels):
        nested = [nested]
    return nested


def test_deep_json_costs_nothing(photo: Photo) -> None:
    for name in OBJECT:
        with pytest.raises(gr.Error):
            read_value(value_of(photo, {**OBJECT, name: deep(50_000)}), photo)


def clicks(count: int) -> dict[str, Any]:
    return {"points": [[number % 384, 5] for number in range(count)], "labels": [1] * count}


def test_a_thousand_clicks_and_no_more(loaded: Loaded, photo: Photo) -> None:
    objects = [{"id": 1, **clicks(limits.MAX_POINTS - 1)}, {"id": 2, **clicks(1)}]
    found = read_objects(objects, photo.size)
    assert len(segment_objects(loaded, photo, found, photo.preview_size)) == 2
    objects.append({"id": 3, **clicks(1)})
    with pytest.raises(gr.Error, match="1000 clicks are the most"):
        read_objects(objects, photo.size)
    many = [{"id": number + 1, **clicks(1)} for number in range(limits.MAX_OBJECTS + 1)]
    assert len(read_objects(many[:-1], photo.size)) == limits.MAX_OBJECTS
    with pytest.raises(gr.Error, match="objects are the most"):
        read_objects(many, photo.size)


def test_visits_share_nothing(photo: Photo) -> None:
    page_state = Visit()
    first, second = copy.deepcopy(page_state), copy.deepcopy(page_state)
    first.start(photo)
    first.everything = Masks(torch.ones(1, 3, 3, dtype=torch.bool))
    assert (second.photo, second.everything, page_state.photo) == (None, None, None)
    first.start(None)
    assert (first.photo, first.everything) == (None, None)
