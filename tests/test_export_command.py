"""`sam-variants export`: what it writes, what it refuses, and the predictor where there is no PyTorch."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_examples import picture, share_unlike
from PIL import Image
from tiny import TINY_VISION, randomize, tiny_config, tiny_model, tiny_video_model
from torch import Tensor, nn
from typer.testing import CliRunner

from sam_variants.checkpoint_layouts.load_whole import load_whole
from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.hub_scripts import cli, export_files
from sam_variants.hub_scripts.export_files import (
    check_packages,
    differences,
    read_onnx,
    read_pt2,
    trace,
    write_part,
)
from sam_variants.hub_scripts.export_format import Format
from sam_variants.hub_scripts.export_parts import Input, Part, parts_of
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.processing.video_reader import read_frames

EXAMPLES = Path(__file__).resolve().parent.parent / "spaces_demo" / "examples"
BORDER = 2e-3
PROMPTS = {"points": [[[20, 20], [50, 30]], [[33, 8], [5, 5]]], "labels": [[1, 0], [1, 1]]}


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(cli.app, ["export", *map(str, arguments)], prog_name="sam-variants")


def assert_one_line(result: Any, *words: str) -> None:
    assert result.exit_code != 0
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    for word in words:
        assert word in line


def without_torch(folder: Path, source: Path, prompts: Any, out: Path) -> Any:
    """Masks and scores of the predictor in a process that can't import PyTorch."""
    script = Path(__file__).with_name("predictor_process.py")
    asked = out.with_suffix(".json")
    asked.write_text(json.dumps(prompts))
    subprocess.run([sys.executable, script, folder, source, asked, out], check=True)
    return np.load(out)


def answers_of(
    model: Any, processor: Any, photo: Image.Image, prompts: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """The same from the model."""
    names = {f"input_{name}": given for name, given in prompts.items()}
    inputs = processor(photo, **names, return_tensors="pt")
    sizes = [inputs.pop(key) for key in ("original_sizes", "reshaped_input_sizes")]
    with torch.no_grad():
        answer = model.eval()(**inputs)
    return processor.post_process_masks(answer.pred_masks, *sizes)[0].numpy(), answer.iou_scores[0].numpy()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that is traced in no time."""
    config = tiny_config("vit")
    config.vision_config.depth = config.mask_decoder_config.transformer_depth = 1
    config.vision_config.global_attn_indexes = [0]
    folder = tmp_path_factory.mktemp("saved") / "tiny"
    randomize(SamVariantsModel(config)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("exported") / "onnx"
    result = run(saved, "--out", out, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_the_folder_tells_what_it_holds(exported: dict[str, Any]) -> None:
    folder = Path(exported["out"])
    told = json.loads((folder / "export.json").read_text())
    assert {key: exported[key] for key in told} == told
    assert {path.name for path in folder.iterdir()} == {*told["files"], "export.json"}
    for name, file in told["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == file["sha256"]
    assert set(told["files"]) == {"image_encoder.onnx", "prompt_decoder.onnx", "predictor.py"}
    for outputs in told["differences"].values():
        assert 0 <= max(outputs.values()) < 1e-3


def test_a_photo_is_segmented_without_torch(exported: dict[str, Any], saved: Path, tmp_path: Path) -> None:
    picture(50, 66).save(tmp_path / "photo.png")
    found = without_torch(Path(exported["out"]), tmp_path / "photo.png", PROMPTS, tmp_path / "found.npz")
    masks, scores = answers_of(*load_whole(str(saved)), picture(50, 66), PROMPTS)
    assert share_unlike(found["masks"], masks) <= BORDER
    np.testing.assert_allclose(found["scores"], scores, atol=1e-3)


def test_a_part_is_written_for_torch_export(saved: Path, tmp_path: Path) -> None:
    out = tmp_path / "pt2"
    result = run(saved, "--out", out, "--format", "pt2", "--part", "image_encoder", "--image-size", "48")
    assert result.exit_code == 0, result.stderr
    assert "image_embeddings" in result.stdout
    assert {path.name for path in out.iterdir()} == {"image_encoder.pt2", "export.json"}
    (found,) = read_pt2(out / "image_encoder.pt2")({"pixel_values": torch.zeros(1, 3, 48, 48)})
    assert found.shape == (1, 32, 3, 3)


class Doubling(nn.Module):
    """Something to export in no time, with weights that it doesn't need."""

    def __init__(self) -> None:
        super().__init__()
        self.factor, self.unused = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.zeros(1000))

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


DOUBLING = Part(Doubling(), {"x": Input(("objects", 3))}, ("y",))


def test_weights_of_other_parts_are_left_out() -> None:
    assert list(trace(DOUBLING).state_dict) == ["factor"]


def test_a_part_that_gives_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_wrong(file: Path) -> Callable[[dict[str, Tensor]], list[Tensor]]:
        return lambda inputs: [2.01 * inputs["x"]]

    monkeypatch.setitem(export_files.READERS, Format.pt2, read_wrong)
    with pytest.raises(ValueError, match=r"doubling\.pt2 gives other y than the model: the largest difference is 9"):
        write_part("doubling", DOUBLING, Format.pt2, tmp_path)


def test_a_version_of_operators_that_is_not_known_here_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--opset 99 .* doubling\.onnx has version \d+"):
        write_part("doubling", DOUBLING, Format.onnx, tmp_path, opset=99)
    (tmp_path / "later.onnx").write_bytes(b"operators of later versions")
    with pytest.raises(ValueError, match=r"ONNX Runtime .* can't read later\.onnx"):
        read_onnx(tmp_path / "later.onnx")


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_no_number_is_a_difference(wrong: float) -> None:
    assert differences(DOUBLING, lambda inputs: [inputs["x"] * wrong])["y"] == float("inf")


def test_another_shape_is_a_difference() -> None:
    assert differences(DOUBLING, lambda inputs: [inputs["x"][:, :1] * 2])["y"] == float("inf")


def test_nothing_is_left_of_what_is_refused(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_files, "differences", lambda part, run: {"image_embeddings": 0.5})
    monkeypatch.setitem(export_files.WRITERS, Format.pt2, lambda program, part, file, opset: file.touch())
    monkeypatch.setitem(export_files.READERS, Format.pt2, lambda file: None)
    monkeypatch.setattr(export_files, "trace", lambda part: None)
    out = tmp_path / "out"
    assert_one_line(run(saved, "--out", out, "--format", "pt2"), "image_encoder.pt2", "5.0e-01", "1e-03")
    assert not out.exists()
    assert list(tmp_path.iterdir()) == []


def test_mistakes_cost_one_line(saved: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").touch()
    assert_one_line(run(saved, "--out", full), "full", "not empty", "give a new folder")
    assert_one_line(run(saved, "--out", full / "mine.txt"), "is a file")
    assert_one_line(run(saved, "--video", "--out", tmp_path / "a"), "--video", "embedded")
    assert_one_line(run(saved, "--format", "pt2", "--opset", "20", "--out", tmp_path / "a"), "--opset", "onnx")
    assert_one_line(
        run(saved, "--part", "memory_encoder", "--out", tmp_path / "a"),
        "memory_encoder",
        "image_encoder, prompt_decoder",
    )
    assert_one_line(run(tmp_path / "nowhere", "--out", tmp_path / "a"), "nowhere")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_a_model_that_graphs_can_not_be_is_refused(tmp_path: Path) -> None:
    model = SamVariantsModel(tiny_config("vit", pad_input=False))
    model.save_pretrained(tmp_path / "model")
    assert_one_line(run(tmp_path / "model", "--out", tmp_path / "a"), "pad_input=False", "pad_input=True")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(export_files.PACKAGES, Format.onnx, ("onnx", "no_such_package"))
    with pytest.raises(ValueError, match=r"no_such_package.*pip install 'sam-variants\[export\]'"):
        check_packages(Format.onnx)


@pytest.mark.slow
@pytest.mark.parametrize("to", list(Format))
@pytest.mark.parametrize("name", TINY_VISION)
@pytest.mark.parametrize("build", [tiny_model, tiny_video_model])
def test_every_part_of_every_model_is_exported(build: Any, name: str, to: Format, tmp_path: Path) -> None:
    model = build(name)
    model.config.mask_decoder_config.dynamic_multimask_via_stability = name == "hiera"
    for part, what in parts_of(model, keeps_aspect=name != "hiera").items():
        assert max(write_part(part, what, to, tmp_path).differences.values()) < 1e-4


@pytest.mark.slow
def test_the_embedded_checkpoint_segments_a_photo_without_torch(tmp_path: Path) -> None:
    out, prompts = (
        tmp_path / "out",
        {"points": [[[200, 150], [1, 1]], [[60, 60], [300, 200]]], "labels": [[1, -10], [1, 0]]},
    )
    assert run("--out", out).exit_code == 0
    found = without_torch(out, EXAMPLES / "cat.jpg", prompts, tmp_path / "found.npz")
    masks, scores = answers_of(*load_whole(str(default_checkpoint())), Image.open(EXAMPLES / "cat.jpg"), prompts)
    assert share_unlike(found["masks"], masks) < 1e-4
    np.testing.assert_allclose(found["scores"], scores, atol=1e-3)


@pytest.mark.slow
def test_the_embedded_checkpoint_tracks_without_torch(tmp_path: Path) -> None:
    out, prompts = tmp_path / "out", {0: {1: {"points": [[120, 297]]}, 2: {"boxes": [168, 240, 312, 360]}}}
    assert run("--video", "--out", out).exit_code == 0
    found = without_torch(out, EXAMPLES / "toys.mp4", prompts, tmp_path / "found.npz")
    model: Any = load_whole(str(default_checkpoint(video=True)))[0].eval()
    frames = (frame.image for frame in read_frames(EXAMPLES / "toys.mp4"))
    tracked = model.start_session().track(frames, prompts)
    for masks, scores, wanted in zip(found["masks"], found["scores"], tracked, strict=True):
        assert share_unlike(masks, wanted.data.numpy()) < 1e-4
        np.testing.assert_allclose(scores, wanted.scores, atol=1e-3)
