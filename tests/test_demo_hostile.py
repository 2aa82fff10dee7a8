"""Whatever is sent to the Space gets an answer or a clear refusal, and reads nothing but what its sender uploaded."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
from demo_server import FILE_META, JSON, Listener, call, refused, running_space, upload
from mcp.shared.exceptions import McpError
from PIL import Image
from test_demo_api import mcp

from sam_variants.hub_scripts.demo_session import DemoSession, SessionError
from sam_variants.spaces_demo import limits
from sam_variants.spaces_demo.guard import check_files, for_mcp, nodes
from sam_variants.spaces_demo.request_limits import GuardError

COINS = Path(__file__).resolve().parent.parent / "spaces_demo" / "examples" / "coins.jpg"
COIN = [155, 50]
OBJECTS = [{"points": [COIN]}]
SERVER_FILES = ("/etc/passwd", "../../../../etc/passwd", "file:///etc/passwd", str(COINS), "/proc/self/environ")
INNER = ("http://169.254.169.254/latest/meta-data/", "http://localhost:1/", "http://100.64.0.1/", "HTTP://127.0.0.1/x")
OUTER = ("https://huggingface.co/robots.txt", "http://example.org/photo.jpg", "ftp://example.org/photo.jpg")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def space(cache: Path) -> Iterator[str]:
    with running_space(cache) as url:
        yield url


@pytest.fixture(scope="module")
def client(space: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=space, timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def photo(client: httpx.Client) -> dict[str, Any]:
    return upload(client, "coins.jpg", COINS.read_bytes())


@pytest.fixture
def inner() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    assert listener.requests == []
    listener.close()


def file_of(path: str) -> dict[str, Any]:
    return {"path": path, "meta": FILE_META}


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises that many pixels, in a few bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = {b"IHDR": header, b"IDAT": zlib.compress(b"\0" * 99), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, content) for kind, content in parts.items())


def clip_of(seconds: float) -> bytes:
    """Two frames in an mp4, the second so many seconds behind the first."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.width = stream.height = 64
        for time in (0, int(seconds)):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), dtype=np.uint8))
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


@pytest.mark.parametrize("path", [*SERVER_FILES, *INNER, *OUTER, "", "\0", "relative.jpg"])
@pytest.mark.parametrize(("name", "argument"), [("segment", "image"), ("track", "video")])
def test_no_endpoint_reads_a_file_of_the_server_or_an_address(
    client: httpx.Client, inner: Listener, path: str, name: str, argument: str
) -> None:
    others = {"objects": OBJECTS} if name == "segment" else {"prompts": [{"frame": 0, "objects": OBJECTS}]}
    text = refused(call(client, name, **{argument: file_of(path)}, **others))
    assert "uploaded here" in text or "addresses are not fetched" in text


def test_no_address_of_this_machine_is_fetched(client: httpx.Client, inner: Listener, space: str) -> None:
    refused(call(client, "segment", image=file_of(inner.url), objects=OBJECTS))
    refused(call(client, "segment", image=file_of(inner.url) | {"url": inner.url}, objects=OBJECTS))
    # Gradio takes files wherever they stand, also in JSON.
    refused(call(client, "segment", image=None, objects=[{"points": file_of(inner.url)}]))
    assert client.get(f"gradio_api/file={inner.url}").status_code == 404
    assert client.get(f"gradio_api/proxy={inner.url}").status_code == 404


@pytest.mark.parametrize("image", [None, 5, "photo.jpg", str(COINS), [], {}, {"path": 5, "meta": FILE_META}])
def test_what_is_no_file_is_refused(client: httpx.Client, image: Any) -> None:
    refused(call(client, "segment", image=image, objects=OBJECTS))


@pytest.mark.parametrize("path", ["/etc/passwd", str(COINS), "../../etc/passwd", "%2e%2e/etc/passwd", "pyproject.toml"])
def test_only_the_cache_is_served(client: httpx.Client, path: str) -> None:
    assert client.get(f"gradio_api/file={path}").status_code in (403, 404)


@pytest.mark.parametrize("path", ["/etc/passwd", str(COINS)])
def test_mcp_reads_no_file_of_the_server(space: str, cache: Path, path: str) -> None:
    before = {file for file in cache.rglob("*") if file.is_file()}
    sent = "data:image/png;base64,AAAA"
    for arguments in (
        {"image": file_of(path), "objects": OBJECTS},
        {"image": sent, "objects": [file_of(path)]},
        {"image": sent, "objects": OBJECTS, "model": {"x": [file_of(path)]}},
    ):
        with pytest.raises(McpError, match="data: address"):
            mcp(space, "segment", **arguments)
    assert {file for file in cache.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("address", [*INNER[:3], *OUTER, "file:///etc/passwd", "http://x/gradio_api/file=/etc/passwd"])
def test_mcp_fetches_no_address(space: str, inner: Listener, address: str) -> None:
    with pytest.raises(McpError, match="data: address"):
        mcp(space, "segment", image=address, objects=OBJECTS)


def test_what_mcp_clients_send_is_deleted_with_the_uploads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("gradio.mcp.DEFAULT_TEMP_DIR", str(tmp_path))
    deleted_later: set[str] = set()
    request = {"params": {"arguments": {"image": "data:image/png;base64,AAAA", "model": "embedded"}}}
    problem, body = for_mcp(request, b"", deleted_later)
    assert problem is None
    assert json.loads(body) == request
    assert deleted_later == {str(file) for file in tmp_path.rglob("*") if file.is_file()}
    assert len(deleted_later) == 1


def test_mcp_takes_no_path(space: str) -> None:
    assert mcp(space, "segment", image="/etc/passwd", objects=OBJECTS).isError


@pytest.mark.parametrize(
    "path",
    [
        *("component_server", "deep_link?session_hash=x", "proxy=http://localhost/", "process_recording", "vibe-code"),
        *("run-history/buckets", "monitoring", "stream/x", "custom_component/1/x/y/z", "dev/reload", "file/etc/passwd"),
    ],
)
def test_what_the_page_does_not_use_is_closed(client: httpx.Client, path: str) -> None:
    assert client.get(f"gradio_api/{path}").status_code == 404
    assert client.post(f"gradio_api/{path}", json={}).status_code == 404
    assert client.get(path).status_code == 404


def test_nobody_passes_by_the_queue(client: httpx.Client, photo: dict[str, Any]) -> None:
    data = {"data": [photo, OBJECTS, "embedded", "none"]}
    for prefix in ("run", "api"):
        assert client.post(f"gradio_api/{prefix}/segment", json=data).status_code == 404


@pytest.mark.parametrize("size", [(30_000, 30_000), (65_000, 1_000), (2**31 - 1, 2**31 - 1)])
def test_an_image_bomb_is_refused_by_its_header(client: httpx.Client, size: tuple[int, int]) -> None:
    refused(call(client, "segment", image=upload(client, "bomb.png", bomb(*size)), objects=OBJECTS))


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff", b"<svg onload='alert(1)'/>", COINS.read_bytes()[:9000]])
@pytest.mark.parametrize(("name", "argument"), [("segment", "image"), ("track", "video")])
def test_broken_files_are_refused(client: httpx.Client, content: bytes, name: str, argument: str) -> None:
    others = {"objects": OBJECTS} if name == "segment" else {"prompts": [{"frame": 0, "objects": OBJECTS}]}
    refused(call(client, name, **{argument: upload(client, "file.jpg", content)}, **others))


def test_a_two_hour_video_is_refused_by_its_header(client: httpx.Client) -> None:
    video = upload(client, "long.mp4", clip_of(7200))
    text = refused(call(client, "track", video=video, prompts=[{"frame": 0, "objects": [{"points": [[5, 5]]}]}]))
    assert "2 h" in text


def test_a_thousand_points_are_answered_and_one_more_is_not(client: httpx.Client, photo: dict[str, Any]) -> None:
    points = [[x % 384, x % 303] for x in range(limits.MAX_POINTS + 1)]
    event, _ = call(client, "segment", image=photo, objects=[{"points": points[:-1]}], file="none")
    assert event == "complete"
    assert "1000" in refused(call(client, "segment", image=photo, objects=[{"points": points}], file="none"))


@pytest.mark.parametrize(
    "objects",
    [
        *(None, [], {}, 5, "x", [5], [[]], [{}], [{"points": 5}], [{"points": [5]}], [{"points": [[1]]}]),
        *([{"points": [[1, 2, 3]]}], [{"points": [["1", "2"]]}], [{"points": [[True, 1]]}], [{"points": [[1.5, 2]]}]),
        *([{"points": [[float("nan"), 1]]}], [{"points": [[float("inf"), 1]]}], [{"points": [[1e300, 1]]}]),
        *([{"points": [[10**400, 1]]}], [{"points": [[-1, 5]]}], [{"points": [[384, 5]]}]),
        *([{"points": [COIN], "labels": [2]}], [{"points": [COIN], "labels": [0]}], [{"points": [COIN], "labels": []}]),
        *([{"box": [1, 2, 3]}], [{"box": [9, 9, 9, 9]}], [{"box": [0, 0, 999, 999]}], [{"points": [COIN], "name": 5}]),
        *([{"points": [COIN], "id": -1}], [{"points": [COIN], "id": 1}] * 2, [{"points": [COIN], "candidate": 7}]),
        [{"points": [COIN]}] * (limits.MAX_OBJECTS + 1),
        [{"points": [COIN], "name": "x" * 100_000}],
    ],
    ids=lambda objects: repr(objects)[:40],
)
def test_wrong_prompts_are_refused(client: httpx.Client, photo: dict[str, Any], objects: Any) -> None:
    refused(call(client, "segment", image=photo, objects=objects, file="none"))


@pytest.mark.parametrize(
    "others",
    [
        *({"model": name} for name in ("../../etc", "/etc/passwd", "", "x" * 10_000, "embedded/../x", None, 5)),
        *({"file": kind} for kind in ("exe", "../x", "", None, 5)),
    ],
    ids=lambda others: repr(others)[:40],
)
def test_wrong_choices_are_refused(client: httpx.Client, photo: dict[str, Any], others: dict[str, Any]) -> None:
    refused(call(client, "segment", **{"image": photo, "objects": OBJECTS, "file": "none", **others}))


@pytest.mark.parametrize(
    "options",
    [
        *({"points_per_side": value} for value in (0, -1, 10**9, float("nan"), "x", [])),
        *({"pred_iou_thresh": value} for value in (-1, 2, float("nan"), "x")),
        *({"min_mask_region_area": value} for value in (-1, float("inf"))),
    ],
    ids=lambda options: repr(options)[:40],
)
def test_wrong_options_are_refused(client: httpx.Client, photo: dict[str, Any], options: dict[str, Any]) -> None:
    refused(call(client, "everything", image=photo, file="none", **options))


def test_deep_json_is_refused(client: httpx.Client) -> None:
    for depth in (limits.MAX_JSON_DEPTH + 1, 100_000):
        body = '{"data":' + "[" * depth + "]" * depth + "}"
        assert client.post("gradio_api/call/segment", content=body, headers=JSON).status_code == 400


def test_a_long_request_is_refused(client: httpx.Client) -> None:
    body = json.dumps({"data": ["x" * limits.MAX_JSON_BYTES]})
    assert client.post("gradio_api/call/segment", content=body, headers=JSON).status_code == 413
    assert client.post("gradio_api/call/segment", content=iter([body.encode()]), headers=JSON).status_code == 413


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"data": null}', b'{"data": {"x": 1}}'])
def test_broken_requests_are_refused(client: httpx.Client, body: bytes) -> None:
    assert client.post("gradio_api/queue/join", content=body, headers=JSON).is_client_error
    assert client.get("config").is_success


def test_the_guard_looks_at_files_only() -> None:
    check_files({"path": "x", "url": "http://localhost/"})
    assert len(list(nodes([{"a": {"b": []}}]))) == 2
    with pytest.raises(GuardError, match="uploaded here"):
        check_files({"path": "x", "meta": 5})


@pytest.fixture
def visitor(space: str) -> Iterator[DemoSession]:
    with DemoSession(space) as session:
        session.open(COINS)
        yield session


def test_the_page_answers_a_thousand_clicks_and_not_one_more(visitor: DemoSession) -> None:
    for _ in range(3):
        assert visitor.click(*COIN)["objects"]
    points = [[x % 384, x % 303] for x in range(limits.MAX_POINTS + 1)]
    one = {"id": 1, "name": "x", "points": points[:-1], "labels": [1] * 1000, "box": None, "candidate": None}
    value = {"photo": visitor.photo and visitor.photo["id"], "version": 9, "selected": 1, "objects": [one]}
    assert visitor.ask(value)["objects"]
    one |= {"points": points, "labels": [1] * 1001}
    with pytest.raises(SessionError, match="1000"):
        visitor.ask(value)


@pytest.mark.parametrize(
    "change",
    [
        *({"objects": value} for value in (5, [5], [{}], [{"id": 1, "points": [[1, 2]]}], {"x": 1})),
        *({"version": value} for value in ("x", [], None, float("nan"))),
    ],
    ids=lambda change: repr(change)[:40],
)
def test_a_forged_canvas_is_refused(visitor: DemoSession, change: dict[str, Any]) -> None:
    one = {"id": 1, "name": "x", "points": [COIN], "labels": [1], "box": None, "candidate": None}
    value = {"photo": visitor.photo and visitor.photo["id"], "version": 9, "selected": 1, "objects": [one], **change}
    try:
        assert visitor.ask(value).get("photo") in (None, value["photo"])
    except SessionError as error:
        refused(("error", {"error": str(error)}))
    assert visitor.click(*COIN)["objects"], "the session goes on"


def test_a_visitor_does_not_see_the_photo_of_another(space: str, visitor: DemoSession, tmp_path: Path) -> None:
    other_photo = tmp_path / "other.png"
    Image.new("RGB", (64, 48)).save(other_photo)
    with DemoSession(space) as other:
        other.open(other_photo)
        one = {"id": 1, "name": "x", "points": [[5, 5]], "labels": [1], "box": None, "candidate": None}
        assert other.photo is not None
        assert visitor.photo is not None
        assert other.photo["id"] != visitor.photo["id"]
        forged = {"photo": visitor.photo["id"], "version": 1, "selected": 1, "objects": [one]}
        assert not other.ask(forged).get("objects")
        # A forged state is not looked at.
        event = other._prompt
        states = [number for number in event["inputs"] if number != other._canvas]
        values = {number: {"photo": visitor.photo} for number in states}
        outputs = other.finished(other.join(event, {**values, other._canvas: {**forged, "photo": other.photo["id"]}}))
        assert json.dumps(visitor.photo["id"]) not in json.dumps(outputs)


def test_the_page_takes_no_path_for_an_upload(visitor: DemoSession) -> None:
    event = visitor._open
    for path in ("/etc/passwd", str(COINS), "http://127.0.0.1:1/"):
        with pytest.raises(SessionError) as info:
            visitor.join(event, {event["inputs"][0]: file_of(path)})
        assert info.value.status == 400
