"""What the Space's repository says: its card, its requirements, its examples."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from huggingface_hub import SpaceCard
from packaging.requirements import Requirement
from PIL import Image

from sam_variants.hub_scripts.scene_textures import TextureBank
from sam_variants.hub_scripts.synthetic_clips import synthetic_clip
from sam_variants.hub_scripts.synthetic_scenes import make_scene
from sam_variants.processing.video_reader import read_frames, video_info
from sam_variants.spaces_demo import limits, models

ROOT = Path(__file__).resolve().parent.parent
SPACE = ROOT / "spaces_demo"
EXAMPLES = SPACE / "examples"
CARD = (SPACE / "README.md").read_text(encoding="utf-8")
# What the Hub takes; https://huggingface.co/docs/hub/spaces-config-reference
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
# Of the package, what a Space carries; the distributions behind the names that it imports.
CARRIED = ("configuration", "modeling_sam_variants", "spaces_demo")
NOT_CARRIED = {"training", "labeling"}
DISTRIBUTION_OF = {"PIL": "pillow", "cv2": "opencv-python-headless", "gradio_client": "gradio", "starlette": "gradio"}


def rows() -> list[dict[str, str]]:
    return json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))


def requirements() -> dict[str, Requirement]:
    lines = (SPACE / "requirements.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if not line.startswith(("#", "--"))]
    return {requirement.name: requirement for requirement in found}


def test_the_card_is_that_of_a_space() -> None:
    data = SpaceCard.load(SPACE / "README.md").data
    assert data.sdk == "gradio"
    assert data.sdk_version == gr.__version__
    assert data.app_file == "app.py"
    assert data.python_version == "3.11"
    assert data.license == "apache-2.0"
    assert {data.colorFrom, data.colorTo} <= COLOURS
    assert len(data.short_description) <= 60
    assert {"segment-anything", "mcp-server"} <= set(data.tags)
    assert data.models is None  # it carries its own: those of the Hub are for visitors to name
    assert data.suggested_hardware == "cpu-basic"


def test_the_thumbnail() -> None:
    assert "\nthumbnail: thumbnail.png\n" in CARD
    thumbnail = SPACE / "thumbnail.png"
    assert thumbnail.stat().st_size < 300_000
    with Image.open(thumbnail) as picture:
        assert picture.size == (1200, 630)
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 100


def test_the_card_states_the_limits() -> None:
    """Each row of the table holds these numbers, in this order."""
    stated = dict(re.findall(r"^\| ([\w ]+) \| (.*) \|$", CARD.split("## Limits")[1], flags=re.MULTILINE))
    expected: dict[str, list[Any]] = {
        "an upload": [re.fullmatch(r"(\d+)mb", limits.MAX_UPLOAD)[1]],  # type: ignore[index]
        "a photo": [limits.MAX_MEGAPIXELS],
        "a video": [limits.MAX_VIDEO_SECONDS, limits.MAX_VIDEO_FRAMES, 1920, 1088],
        "prompts": [limits.MAX_OBJECTS, limits.MAX_POINTS, limits.MAX_VIDEO_OBJECTS, limits.MAX_VIDEO_PROMPTS],
        "work": [limits.WORK_SECONDS / 60],
        "a model from the Hub": [limits.MAX_MODEL_BYTES / 1e9, limits.MAX_MODEL_SIDE],
        "visitors": [limits.MAX_WAITING, limits.STATE_SESSIONS],
        "memory of the process": [limits.MEMORY_GIB],
    }
    for what, numbers in expected.items():
        found = re.findall(r"\d[\d,.]*", stated[what])
        assert [float(number.replace(",", "")) for number in found] == [float(number) for number in numbers], what
    assert limits.MAX_VIDEO_PIXELS == 1920 * 1088
    assert "an hour" in stated["visitors"]
    assert limits.SESSION_SECONDS == 3600


def test_the_card_knows_the_variables_and_the_files() -> None:
    assert f"`{models.MODELS_VARIABLE}`" in CARD
    assert f"`{models.HUB_VARIABLE}`" in CARD
    for row in rows():
        assert f"| `{row['file']}` | {row['source']} | {row['licence']} |" in CARD


def test_the_requirements_are_the_tested_versions() -> None:
    pinned = (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8").split()
    for name, requirement in requirements().items():
        assert f"{name}{requirement.specifier}" in pinned
    # The server for agents, which the page asks for, is an extra.
    assert requirements()["gradio"].extras == {"mcp"}


def test_the_requirements_are_what_the_code_imports() -> None:
    """Nothing else is installed in a Space; what these bring themselves aside."""
    imported = set()
    carried = (path for folder in CARRIED for path in (ROOT / folder).rglob("*.py"))
    for file in (path for path in carried if not NOT_CARRIED & {*path.parts}):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").split(".")[0])
    libraries = imported - set(sys.stdlib_module_names) - {"sam_variants"}
    assert {DISTRIBUTION_OF.get(name, name) for name in libraries} <= set(requirements())


def test_the_examples_are_described() -> None:
    described = [row["file"] for row in rows()]
    assert sorted([*described, "examples.json"]) == sorted(path.name for path in EXAMPLES.iterdir())
    for row in rows():
        assert set(row) == {"file", "title", "licence", "source"}
        assert all(row.values())
    assert sum(path.stat().st_size for path in EXAMPLES.iterdir()) < 2_000_000


@pytest.mark.parametrize("name", [row["file"] for row in rows() if row["file"].endswith(".jpg")])
def test_an_example_photo(name: str) -> None:
    with Image.open(EXAMPLES / name) as photo:
        photo.load()
        assert photo.mode in {"RGB", "L"}
        assert 300 <= min(photo.size) <= max(photo.size) <= limits.PREVIEW_SIDE


def generated(name: str) -> tuple[Any, ...]:
    """The arguments that the example's source states."""
    source = next(row["source"] for row in rows() if row["file"] == name)
    return ast.literal_eval(source[source.index("(") :])


@pytest.fixture
def no_photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenes and clips fail that would hold a part of a photograph, which has a licence of its own."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a photograph is in it")

    for name in ("photo", "piece"):
        monkeypatch.setattr(TextureBank, name, refuse)


@pytest.mark.usefixtures("no_photographs")
@pytest.mark.parametrize("name", ["buttons.jpg", "tiles.jpg"])
def test_a_generated_photo_can_be_made_again(name: str) -> None:
    scene = make_scene(*generated(name))
    with Image.open(EXAMPLES / name) as photo:
        assert np.abs(np.asarray(photo, dtype=int) - scene.image).mean() < 4


@pytest.mark.usefixtures("no_photographs")
def test_the_generated_video_can_be_made_again() -> None:
    clip = synthetic_clip(*generated("toys.mp4"))
    info = video_info(EXAMPLES / "toys.mp4")
    assert info.width * info.height <= limits.MAX_VIDEO_PIXELS
    assert info.num_frames == len(clip) <= limits.MAX_VIDEO_FRAMES
    for frame in read_frames(EXAMPLES / "toys.mp4"):
        assert np.abs(frame.image.astype(int) - clip.frames[frame.index]).mean() < 8
