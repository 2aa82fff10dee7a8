"""The Space's API: what its endpoints answer is what the package answers, and programs can find out how to ask."""

from __future__ import annotations

import asyncio
import base64
import json
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from demo_server import call, running_space, upload
from gradio_client import Client, handle_file
from PIL import Image

from sam_variants import Masks
from sam_variants.pipelines import PromptableSegmentationPipeline
from sam_variants.spaces_demo.everything import suiting_options
from sam_variants.spaces_demo.models import EMBEDDED, EMBEDDED_VIDEO, store
from sam_variants.video_pipeline import PromptableVideoSegmentationPipeline

COINS = Path(__file__).resolve().parent.parent / "spaces_demo" / "examples" / "coins.jpg"
COIN, BACKGROUND = [155, 50], [100, 10]
NAMES = ("/models", "/segment", "/everything", "/track", "/compare")


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_space(tmp_path_factory.mktemp("cache")) as url:
        yield url


@pytest.fixture(scope="module")
def client(space: str, tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(space, verbose=False, download_files=tmp_path_factory.mktemp("downloads"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[np.ndarray]]:
    """Six frames of a bright square that moves, in a lossless video."""
    frames = []
    for step in range(6):
        frame = np.full((96, 128, 3), 40, dtype=np.uint8)
        frame[30:62, 20 + 4 * step : 52 + 4 * step] = (230, 180, 60)
        frames.append(frame)
    path = tmp_path_factory.mktemp("clip") / "square.gif"
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(path, save_all=True, append_images=images[1:], duration=100, loop=0)
    return path, frames


def masks_of(answer: dict[str, Any]) -> Masks:
    return Masks.from_coco(answer["masks"], (answer["height"], answer["width"]))


def test_models_tells_what_can_be_asked_for(client: Client) -> None:
    told = client.predict(api_name="/models")
    assert told["models"][:2] == [EMBEDDED, EMBEDDED_VIDEO]
    assert told["limits"]["points"] == 1000
    assert "coco" in told["files"]


def test_segment_answers_what_the_pipeline_answers(client: Client) -> None:
    objects = [
        {"points": [COIN]},
        {"points": [COIN, BACKGROUND], "labels": [1, 0], "box": [130, 25, 182, 76], "name": "coin"},
    ]
    answer, file = client.predict(handle_file(COINS), objects, file="coco", api_name="/segment")
    pipe = PromptableSegmentationPipeline(model=store().get(EMBEDDED).model)  # type: ignore[arg-type]
    expected = np.asarray(
        pipe(
            str(COINS),
            points=[item["points"] for item in objects],
            labels=[[1], objects[1]["labels"]],
            boxes=[None, objects[1]["box"]],
        )
    )
    assert np.array_equal(np.asarray(masks_of(answer)), expected)
    assert expected.any(axis=(1, 2)).all()
    assert [entry["name"] for entry in answer["masks"]] == ["Object 1", "coin"]
    assert [entry["id"] for entry in answer["masks"]] == [1, 2]
    assert [entry["area"] for entry in answer["masks"]] == expected.sum(axis=(1, 2)).tolist()
    assert len(json.loads(Path(file).read_text())["annotations"]) == 2


@pytest.mark.parametrize("kind", ["overlay", "cutout", "labels", "masks"])
def test_segment_gives_the_file_asked_for(client: Client, kind: str) -> None:
    answer, file = client.predict(
        handle_file(COINS), [{"points": [COIN]}, {"box": [20, 30, 60, 70]}], file=kind, api_name="/segment"
    )
    masks = np.asarray(masks_of(answer))
    if kind == "masks":
        with zipfile.ZipFile(file) as archive:
            assert len(archive.namelist()) == 2
        return
    picture = np.asarray(Image.open(file))
    assert picture.shape[:2] == (303, 384)
    if kind == "labels":
        assert np.array_equal(picture > 0, masks.any(axis=0))
    if kind == "cutout":
        assert np.array_equal(picture[..., 3] > 0, masks.any(axis=0))


def test_no_file_is_made_unasked(client: Client) -> None:
    assert client.predict(handle_file(COINS), [{"points": [COIN]}], file="none", api_name="/segment")[1] is None


def test_everything_answers_what_the_pipeline_answers(client: Client) -> None:
    answer, file = client.predict(
        handle_file(COINS), points_per_side=8, pred_iou_thresh=0.9, file="none", api_name="/everything"
    )
    loaded = store().get(EMBEDDED)
    options = {**suiting_options(loaded).arguments(), "points_per_side": 8, "pred_iou_thresh": 0.9}
    expected = loaded.generator(Image.open(COINS), **options)
    assert len(expected) > 5
    assert np.array_equal(np.asarray(masks_of(answer)), np.asarray(expected))
    assert sum(answer["seconds"].values()) > 0
    assert file is None


def test_track_answers_what_the_pipeline_answers(client: Client, clip: tuple[Path, list[np.ndarray]]) -> None:
    path, frames = clip
    prompts = [{"frame": 0, "objects": [{"points": [[36, 46]], "name": "square"}]}]
    answer, masks_file, video = client.predict(handle_file(path), prompts, api_name="/track")
    assert (answer["num_frames"], answer["width"], answer["height"]) == (6, 128, 96)
    assert answer["objects"] == [{"id": 1, "name": "square"}]
    told = json.loads(Path(masks_file).read_text())
    loaded = store().get(EMBEDDED_VIDEO)
    pipe = PromptableVideoSegmentationPipeline(model=loaded.model, processor=loaded.processor)  # type: ignore[arg-type]
    expected = [np.asarray(masks) for masks in pipe(frames, prompts={0: {1: {"points": [[36, 46]]}}})]
    for index, frame in enumerate(expected):
        found = [entry for entry in told["annotations"] if entry["image_id"] == index]
        assert np.array_equal(np.asarray(Masks.from_coco(found, (96, 128))), frame)
        assert frame.any()
    assert Path(video).read_bytes()[4:8] == b"ftyp"


def test_compare_answers_for_both_models(client: Client) -> None:
    objects = [{"points": [COIN]}]
    told = client.predict(handle_file(COINS), objects, api_name="/compare")
    alone = [
        client.predict(handle_file(COINS), objects, model, "none", api_name="/segment")[0]
        for model in (EMBEDDED, EMBEDDED_VIDEO)
    ]
    first, second = (np.asarray(masks_of(told[name])) for name in ("first", "second"))
    assert np.array_equal(first, np.asarray(masks_of(alone[0])))
    assert np.array_equal(second, np.asarray(masks_of(alone[1])))
    assert told["agreement"] == [pytest.approx((first & second).sum() / (first | second).sum())]


def test_every_endpoint_is_documented(space: str) -> None:
    told = httpx.get(f"{space}gradio_api/info", trust_env=False).json()
    assert set(told["named_endpoints"]) == set(NAMES)
    assert not told["unnamed_endpoints"]
    for name, endpoint in told["named_endpoints"].items():
        assert len(endpoint["description"]) > 40, name
        for parameter in endpoint["parameters"]:
            assert not parameter["parameter_name"].startswith("param_")
            assert "://" not in json.dumps(parameter["example_input"]), "addresses are not taken"


def test_files_are_the_only_arguments_that_could_be_paths(space: str) -> None:
    told = httpx.get(f"{space}gradio_api/info", trust_env=False).json()["named_endpoints"]
    kinds = {
        parameter["parameter_name"]: parameter["component"]
        for endpoint in told.values()
        for parameter in endpoint["parameters"]
    }
    assert {name for name, kind in kinds.items() if kind == "File"} == {"image", "video"}
    texts = {name for name, kind in kinds.items() if kind == "Textbox"}
    assert texts == {"model", "first_model", "second_model", "file"}


def test_curl_works_too(space: str) -> None:
    with httpx.Client(base_url=space, timeout=60, trust_env=False) as http:
        photo = upload(http, "coins.jpg", COINS.read_bytes())
        event, outputs = call(http, "segment", image=photo, objects=[{"points": [COIN]}])
        assert event == "complete"
        file = http.get(f"gradio_api/file={outputs[1]['path']}")
    assert len(outputs[0]["masks"]) == 1
    assert file.headers["content-type"] == "image/png"


def mcp(space: str, name: str | None = None, **arguments: Any) -> Any:
    """Call a tool, or list them, with the official client."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client
    from mcp.shared.exceptions import McpError

    async def run() -> Any:
        async with (
            streamablehttp_client(f"{space}gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            try:
                return await (session.list_tools() if name is None else session.call_tool(name, arguments))
            except McpError as error:
                return error

    # In a thread of its own: Playwright leaves its event loop in the one of the tests.
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(asyncio.run, run()).result()
    if isinstance(answer, McpError):
        raise answer
    return answer


def test_mcp_lists_the_endpoints_as_tools(space: str) -> None:
    tools = {tool.name: tool for tool in mcp(space).tools}
    assert {f"/{name}" for name in tools} == set(NAMES)
    described = tools["segment"].inputSchema["properties"]
    assert set(described) == {"image", "objects", "model", "file"}
    assert all(entry["description"] for entry in described.values())


def test_mcp_segments_a_photo_sent_as_text_or_uploaded_before(space: str) -> None:
    sent = f"data:image/jpeg;base64,{base64.b64encode(COINS.read_bytes()).decode()}"
    with httpx.Client(base_url=space, trust_env=False) as http:
        path = upload(http, "coins.jpg", COINS.read_bytes())["path"]
    answers = []
    for image in (sent, f"{space}gradio_api/file={path}"):
        result = mcp(space, "segment", image=image, objects=[{"points": [COIN]}], file="none")
        assert not result.isError, result.content
        answers.append(result.content[0].text)
    assert answers[0] == answers[1]
    assert "'area': " in answers[0]


def test_mcp_tells_errors(space: str) -> None:
    sent = f"data:image/jpeg;base64,{base64.b64encode(COINS.read_bytes()).decode()}"
    result = mcp(space, "segment", image=sent, objects=[{"points": [[1000, 5]]}])
    assert result.isError
    assert "outside the image" in result.content[0].text
