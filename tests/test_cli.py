"""The command `sam-variants`: what it writes and prints, and one line for everything that goes wrong."""

from __future__ import annotations

import http.server
import importlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import save_tiny
from typer.testing import CliRunner

import sam_variants
from sam_variants import registration
from sam_variants.hub_scripts import cli, prompt_options, segment_run, train_run
from sam_variants.pipelines import PromptableSegmentationPipeline
from sam_variants.results import Masks

HEIGHT, WIDTH = 48, 80
HEAVY = {"torch", "transformers", "PIL", "cv2", "huggingface_hub", "datasets"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return save_tiny(tmp_path_factory.mktemp("command") / "model")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], prog_name="sam-variants")


def report_of(*arguments: Any) -> dict[str, Any]:
    result = run("segment", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    (line,) = result.stdout.splitlines()
    return json.loads(line)


def test_every_file_holds_the_same_masks(model: Path, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "made" / "here"
    report = report_of(photo, "--box", "4,6,50,40", "--box", "30,2,79,47", "--model", model, "--out", out)
    assert {path.name for path in out.iterdir()} == {
        "photo_overlay.png",
        "photo_label_map.png",
        "photo_cutout.png",
        "photo_mask_1.png",
        "photo_mask_2.png",
        "photo.coco.json",
    }
    coco = json.loads((out / "photo.coco.json").read_text())
    assert coco["images"] == [{"id": 1, "file_name": "photo.png", "width": WIDTH, "height": HEIGHT}]
    masks = Masks.from_coco(coco["annotations"])
    assert [mask["area"] for mask in report["masks"]] == masks.areas.tolist()
    assert [mask["box"] for mask in report["masks"]] == masks.boxes.tolist()
    assert [mask["score"] for mask in report["masks"]] == pytest.approx(masks.scores.tolist())
    for mask, entry in zip(masks, report["masks"], strict=True):
        assert np.array_equal(np.asarray(Image.open(entry["file"])), mask.data[0].numpy() * np.uint8(255))
    assert np.array_equal(np.asarray(Image.open(out / "photo_label_map.png")), masks.to_label_map())
    pixels = np.asarray(Image.open(photo))
    assert np.array_equal(np.asarray(Image.open(report["files"]["overlay"])), np.asarray(masks.overlay(pixels)))
    assert np.array_equal(np.asarray(Image.open(report["files"]["cutout"])), np.asarray(masks.cutout(pixels)))


@pytest.mark.parametrize(
    ("options", "prompts"),
    [
        (["--point", "10,20"], {"points": [[[10, 20]]]}),
        (["--point", "10,20", "--point", "30.5,30,0"], {"points": [[[10, 20], [30.5, 30]]], "labels": [[1, 0]]}),
        (["--point", "10,20,1", "--box", "4,6,50,40"], {"points": [[[10, 20]]], "boxes": [[4, 6, 50, 40]]}),
        (["--box", "4,6,50,40", "--box", "1,2,30,30"], {"boxes": [[4, 6, 50, 40], [1, 2, 30, 30]]}),
        (["--box", "4,6,50,40", "--multimask"], {"boxes": [[4, 6, 50, 40]], "multimask": True}),
    ],
)
def test_options_mean_the_prompts_of_the_pipeline(
    model: Path, photo: Path, tmp_path: Path, options: list[str], prompts: dict[str, Any]
) -> None:
    report = report_of(photo, *options, "--model", model, "--out", tmp_path)
    expected = PromptableSegmentationPipeline(model=sam_variants.load_checkpoint(model))(photo, **prompts)
    assert [mask["score"] for mask in report["masks"]] == pytest.approx(expected.scores.tolist(), abs=1e-4)
    masks = Masks.from_coco(json.loads((tmp_path / "photo.coco.json").read_text())["annotations"])
    assert (masks.data != expected.data).float().mean() < 1e-3


def test_the_summary_says_what_lies_where(model: Path, photo: Path, tmp_path: Path) -> None:
    result = run("segment", photo, "--point", "10,20", "--model", model, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    for path in (tmp_path / "out").iterdir():
        assert str(path) in result.stdout
    for word in ("score", "area", "px", "load the model", "segment", " s"):
        assert word in result.stdout


def test_the_embedded_checkpoint_is_the_default(
    model: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_run, "default_checkpoint", lambda: model)
    report = report_of(photo, "--point", "10,20", "--out", tmp_path)
    assert report["model"] == "embedded"
    again = report_of(photo, "--point", "10,20", "--out", tmp_path, "--model", model / "model.safetensors")
    assert report["masks"] == again["masks"]


def test_image_size_and_device_are_taken(model: Path, photo: Path, tmp_path: Path) -> None:
    options = (photo, "--point", "10,20", "--out", tmp_path, "--model", model)
    larger = report_of(*options, "--image-size", "128", "--device", "cpu")
    assert larger["device"] == "cpu"
    assert larger["masks"] != report_of(*options)["masks"]


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """Keep the tests' output clean."""


@pytest.fixture
def served(photo: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=photo.parent))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_url_is_an_image(model: Path, served: str, tmp_path: Path) -> None:
    report = report_of(f"{served}/photo.png?size=large", "--point", "10,20", "--out", tmp_path, "--model", model)
    assert report["files"]["overlay"] == str(tmp_path / "photo_overlay.png")
    result = run("segment", f"{served}/missing.png", "--point", "1,1", "--out", tmp_path, "--model", model)
    assert_one_line(result, 1, "missing.png", "404")


def assert_one_line(result: Any, exit_code: int, *words: str) -> None:
    assert result.exit_code == exit_code
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("sam-variants")
    for word in words:
        assert word in line


BAD_OPTIONS: dict[str, tuple[list[str], str]] = {
    "nothing": ([], "give --point or --box"),
    "one number": (["--point", "3"], "'3' is not x,y"),
    "no numbers": (["--point", "a,b"], "--point 320,240"),
    "an empty point": (["--point", ""], "'' is not x,y"),
    "another label": (["--point", "1,2,3"], "label is 1"),
    "half a label": (["--point", "1,2,0.5"], "label is 1"),
    "not a number": (["--point", "nan,2"], "'nan,2'"),
    "infinite": (["--box", "1,2,inf,4"], "'1,2,inf,4'"),
    "three sides": (["--box", "1,2,3"], "x1,y1,x2,y2"),
    "inside out": (["--box", "9,9,1,1"], "x1 < x2"),
    "points of which box": (["--box", "1,2,3,4", "--box", "1,2,3,4", "--point", "1,1"], "2 boxes are 2 objects"),
    "unknown option": (["--boxes", "1,2,3,4"], "--boxes"),
    "size in words": (["--point", "1,1", "--image-size", "large"], "--image-size"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options_are_usage_errors(photo: Path, tmp_path: Path, case: str) -> None:
    options, word = BAD_OPTIONS[case]
    result = run("segment", photo, "--out", tmp_path / "out", *options)
    assert_one_line(result, 2, word, "segment --help")
    assert not (tmp_path / "out").exists()


def bad_images(folder: Path, photo: Path) -> dict[str, str]:
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("no image")
    (folder / "cut.png").write_bytes(photo.read_bytes()[:2000])
    return {
        "missing.png": "there is no image file",
        "empty.png": "can't be opened",
        "text.png": "can't be opened",
        "cut.png": "can't be decoded",
        ".": "is a folder",
    }


def test_bad_images_are_named(photo: Path, tmp_path: Path) -> None:
    for name, words in bad_images(tmp_path, photo).items():
        result = run("segment", tmp_path / name, "--point", "1,1", "--out", tmp_path / "out")
        assert_one_line(result, 1, words, str(tmp_path / name))


def test_prompts_outside_the_image_are_found_before_the_model_is_loaded(photo: Path, tmp_path: Path) -> None:
    for options in (["--point", "81,3"], ["--point", "3,49"], ["--point", "-1,3"], ["--box", "1,1,81,40"]):
        result = run("segment", photo, *options, "--out", tmp_path / "out", "--model", "missing.pth")
        assert_one_line(result, 1, " ".join(options), f"width {WIDTH}, height {HEIGHT}")


def test_the_border_of_the_image_belongs_to_it() -> None:
    prompt_options.check_inside([[0, 0], [WIDTH, HEIGHT]], [[0, 0, WIDTH, HEIGHT]], width=WIDTH, height=HEIGHT)


def test_a_folder_that_cannot_be_made(model: Path, photo: Path) -> None:
    for out in (photo, photo / "below"):
        result = run("segment", photo, "--point", "1,1", "--model", model, "--out", out)
        assert_one_line(result, 1, "--out", str(out), "can't be made")


class RunsCode:
    """Pickles as a call that makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def test_code_in_a_checkpoint_is_not_run(photo: Path, tmp_path: Path) -> None:
    for name, legacy in (("new.pth", False), ("old.pth", True)):
        state = {"model": RunsCode(tmp_path / "ran")}
        torch.save(state, tmp_path / name, _use_new_zipfile_serialization=not legacy)
        result = run("segment", photo, "--point", "1,1", "--out", tmp_path, "--model", tmp_path / name)
        assert_one_line(result, 1, name, "was not run")
    assert not (tmp_path / "ran").exists()


def test_bad_models_sizes_and_devices_are_named(model: Path, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("no checkpoint")
    call = ("segment", photo, "--point", "1,1", "--out", tmp_path)
    assert_one_line(run(*call, "--model", "missing.pth"), 1, "there is no checkpoint", "missing.pth")
    assert_one_line(run(*call, "--model", tmp_path / "text.pth"), 1, "text.pth")
    assert_one_line(run(*call, "--model", model, "--image-size", "100"), 1, "image_size=100", "stride 16")
    assert_one_line(run(*call, "--model", model, "--device", "abacus"), 1, "--device abacus can't be used")


def test_debug_shows_where(photo: Path) -> None:
    for arguments in (
        ["segment", "missing.png", "--point", "1,1", "--debug"],
        ["--debug", "segment", "missing.png", "--point", "1,1"],
    ):
        result = run(*arguments)
        assert result.exit_code == 1
        assert isinstance(result.exception, ValueError)
        assert "there is no image file" in str(result.exception)


def test_an_unexpected_error_is_one_line_too(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(source: str) -> None:
        raise KeyError("two\nlines")

    monkeypatch.setattr(segment_run, "read_image", break_down)
    assert_one_line(run("segment", photo, "--point", "1,1"), 1, "unexpected KeyError", "--debug")


def test_help_lists_every_command_without_importing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "load_command", None)
    result = run("--help")
    assert result.exit_code == 0
    for name in ("segment", "train", "evaluate"):
        assert name in result.stdout


def imported_for_help(tmp_path: Path, *names: str) -> set[str]:
    """First parts of the modules that a process of the installed command has imported when it has explained itself.

    Args:
        tmp_path: where the command is installed.
        names: of a command, which explains its own commands too; or nothing.
    """
    lines = (
        "import sys",
        "from contextlib import suppress",
        "from sam_variants.hub_scripts import cli",
        "names = sys.argv[1:]",
        "below = getattr(cli.load_command(*names), 'commands', ()) if names else ()",
        "for arguments in (names, *([*names, each] for each in below)):",
        "    with suppress(SystemExit):",
        "        cli.app([*arguments, '--help'])",
        "print(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr)",
    )
    (tmp_path / "sam-variants").write_text("\n".join(lines))
    command = [sys.executable, tmp_path / "sam-variants", *names]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert "--help" in answer.stdout
    return set(answer.stderr.split())


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_help_waits_for_nothing_heavy(name: str, tmp_path: Path) -> None:
    assert not imported_for_help(tmp_path, name) & HEAVY


def test_the_list_of_commands_waits_for_nothing_heavy(tmp_path: Path) -> None:
    imported = imported_for_help(tmp_path)
    assert "typer" in imported
    assert not imported & {*HEAVY, "numpy"}


@pytest.mark.parametrize("arguments", [("segment", "photo.png", "--point", "1,1"), ("benchmark", "load")])
def test_classes_are_registered_before_a_command_runs(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop() -> None:
        raise ValueError("registered")

    monkeypatch.setattr(registration, "register", stop)
    assert_one_line(run(*arguments), 1, "registered")
    assert run(*arguments, "--help").exit_code == 0


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_command_explains_itself(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0, result.stderr
    assert f" {name} [OPTIONS]" in result.stdout


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_skimage(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'skimage'", name="skimage")

    monkeypatch.setattr(importlib, "import_module", without_skimage)
    assert_one_line(run("train"), 1, "train needs skimage", "pip install 'sam-variants[train]'")


def test_a_missing_package_is_named_when_the_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module of a command imports little, so that it can explain itself without its extra."""

    def without_datasets(*arguments: Any) -> Any:
        raise ModuleNotFoundError("No module named 'datasets'", name="datasets")

    monkeypatch.setattr(train_run, "train_on_images", without_datasets)
    call = ("train", "photos", "--out", tmp_path / "new")
    assert_one_line(run(*call), 1, "train needs datasets", "pip install 'sam-variants[train]'")


def test_version_and_wrong_commands() -> None:
    assert run("--version").stdout == f"sam-variants {sam_variants.__version__}\n"
    assert_one_line(run("segmnt"), 2, "Did you mean 'segment'")
    assert_one_line(run(), 2, "Missing command")


def test_main_is_the_entry_point(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["sam-variants", "--version"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("sam-variants ")
