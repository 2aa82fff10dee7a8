"""`sam-variants train`: folders in, checkpoints out; in one process and in two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from clip_examples import write_clips
from masked_data import save_rectangles
from safetensors.torch import load_file
from test_cli import run
from tiny import save_tiny, tiny_video_model
from transformers import AutoModel, AutoProcessor

from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.modeling_sam_variants_video import SamVariantsVideoModel
from sam_variants.pretrained_part import VIDEO_PARTS

COUNTS = [2, 1, 3, 2, 1, 2, 3, 2]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Images with masks, and a checkpoint."""
    torch.manual_seed(0)
    return save_rectangles(tmp_path / "data", COUNTS), save_tiny(tmp_path / "model")


def weights(folder: Path) -> dict[str, Any]:
    return load_file(folder / "model.safetensors")


def test_trains_and_leaves_a_complete_checkpoint(folders: tuple[Path, Path], tmp_path: Path) -> None:
    data, model = folders
    out = tmp_path / "out"
    result = run(
        *("train", data, "--model", model, "--out", out, "--steps", 2, "--eval-every", 1, "--eval-share", 0.25),
        *("--objects", 2, "--rounds", 2, "--learning-rate", 1e-3, "--log", "tensorboard", "--cpu"),
    )
    assert result.exit_code == 0, result.stderr
    assert "6 rows" in result.stderr
    assert "measured on" in result.stderr
    assert "step 2/2: mIoU" in result.stderr
    assert "2 steps in" in result.stdout
    record = json.loads((out / "training.json").read_text())
    assert record["model"] == str(model)
    assert record["best"]["step"] in (1, 2)
    assert [found["step"] for found in record["evaluations"]] == [0, 1, 2]
    best = out / f"checkpoint-{record['best']['step']}"
    trained, last = weights(out), weights(out / "checkpoint-2")
    assert all(torch.equal(trained[name], tensor) for name, tensor in weights(best).items())
    assert any(not torch.equal(last[name], tensor) for name, tensor in weights(model).items())
    assert AutoModel.from_pretrained(out).config.image_size == 64
    assert AutoProcessor.from_pretrained(out).image_processor.image_size == 64
    assert list((out / "runs").rglob("events.out.tfevents*"))
    assert not list(out.rglob("*.bin"))


def test_dry_run_tells_and_writes_nothing(folders: tuple[Path, Path], tmp_path: Path) -> None:
    data, model = folders
    result = run("train", data, "--model", model, "--dry-run", "--json", "--freeze-encoder", "--epochs", 3, "--cpu")
    assert result.exit_code == 0, result.stderr
    plan = json.loads(result.stdout)
    assert plan["steps"] == 12
    assert plan["learning_rate"] == 2e-4
    assert "8 rows" in plan["data"]
    everything = sum(tensor.numel() for tensor in weights(model).values())
    assert 0 < plan["trained_parameters"] < everything
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "model"]


def test_another_input_size_and_the_embedded_model(folders: tuple[Path, Path], tmp_path: Path) -> None:
    data, _ = folders
    out = tmp_path / "out"
    result = run(
        *("train", data, "--out", out, "--image-size", 128, "--steps", 1, "--objects", 2, "--rounds", 1, "--cpu"),
        *("--lora", 2, "--merge", "--json", "--batch-size", 1),
    )
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["trained_parameters"] < 1_000_000
    assert AutoModel.from_pretrained(out).config.image_size == 128
    assert (out / "adapter" / "adapter_model.safetensors").stat().st_size < 4_000_000
    config = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(default_checkpoint())
    assert "load_checkpoint(sam_variants.default_checkpoint())" in (out / "adapter" / "README.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--out is missing"),
        (["--out", "new", "--streaming"], "no end: say how long to train with --steps"),
        (["--out", "new", "--epochs", "0"], "--epochs 0.0 must be more than 0"),
        (["--out", "new", "--freeze-encoder", "--lora", "4"], "choose --freeze-encoder or --lora"),
        (
            ["--out", "new", "--eval-share", "0.01"],
            "leaves nothing to learn from or to measure on: choose another share, for example --eval-share 0.13",
        ),
        (["--out", "new", "--eval-share", "0.5", "--eval-split", "test"], "leave out --eval-data"),
        (["--out", "new", "--columns", "image"], "write --columns image=NAME"),
        (["--out", "new", "--video", "--max-objects", "5"], "--max-objects: for images only"),
        (["--out", "new", "--frames", "4"], "--parts and --frames are for clips: add --video"),
        (["--out", "new", "--embedding-dtype", "float32"], "add --embeddings, or leave it out"),
        (["--out", "new", "--video"], "data"),
        (["--out", "data"], "isn't empty: name a new folder"),
        (["--out", "new", "--resume", "nowhere"], "--resume nowhere is no checkpoint"),
    ],
)
def test_errors_take_one_line(
    options: list[str], message: str, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("train", "data", "--model", folders[1], "--cpu", *options)
    assert result.exit_code != 0
    line = result.stderr.strip().splitlines()[-1]
    assert message in line
    assert not (tmp_path / "new").exists()


def test_clips_are_not_images(folders: tuple[Path, Path], tmp_path: Path) -> None:
    data, model = folders
    clips = tmp_path / "clips"
    for name, source in (("JPEGImages", "images"), ("Annotations", "masks")):
        (clips / name).mkdir(parents=True)
        (clips / name / "one").symlink_to(data / source)
    result = run("train", clips, "--model", model, "--out", tmp_path / "out", "--cpu")
    assert result.exit_code != 0
    assert "train tracking on them with --video" in result.stderr


def test_clips_are_trained_on_and_measured(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data, out = write_clips(tmp_path / "data", 4), tmp_path / "out"
    model = tiny_video_model()
    model.save_pretrained(tmp_path / "model")
    common = ("train", data, "--video", "--model", tmp_path / "model", "--eval-share", 0.25, "--frames", 2, "--cpu")
    plan = run(*common, "--dry-run", "--json", "--epochs", 2, "--parts", "memory")
    assert plan.exit_code == 0, plan.stderr
    assert json.loads(plan.stdout)["steps"] == 6
    memory = sum(p.numel() for name, p in model.named_parameters() if name.startswith(VIDEO_PARTS))
    assert json.loads(plan.stdout)["trained_parameters"] == memory
    result = run(*common, "--out", out, "--steps", 2, "--eval-every", 1, "--learning-rate", 1e-3)
    assert result.exit_code == 0, result.stderr
    assert "3 clips" in result.stderr
    assert "whole clips" in result.stderr
    assert "step 0/2: J&F" in result.stderr
    assert "best j_and_f" in result.stdout
    assert json.loads((out / "training.json").read_text())["before"]["step"] == 0
    assert isinstance(AutoModel.from_pretrained(out), SamVariantsVideoModel)


def test_a_dry_run_refuses_what_a_run_would(folders: tuple[Path, Path], tmp_path: Path) -> None:
    clips = write_clips(tmp_path / "clips", 2)
    images = run("train", folders[0], "--model", folders[1], "--dry-run", "--min-area", 0.9, "--cpu")
    assert "none of 8 rows has an object" in images.stderr
    video = run("train", clips, "--video", "--model", folders[1], "--dry-run", "--cpu")
    assert "SamVariantsModel has no memory" in video.stderr
    assert images.exit_code == video.exit_code == 1


def test_an_adapter_is_no_checkpoint(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """But merged with its base it is one, which is pushed with what belongs to it alone."""
    data, model = folders
    out = tmp_path / "out"
    result = run(
        *("train", data, "--model", model, "--out", out, "--lora", 2, "--merge", "--steps", 1, "--objects", 1),
        *("--rounds", 1, "--cpu"),
    )
    assert result.exit_code == 0, result.stderr
    refused = run("segment", data / "images" / "0.png", "--model", out / "adapter", "--point", "20,20")
    assert "holds an adapter (LoRA), not a whole model" in refused.stderr
    pushed = run("push", out, "me/mine", "--license", "mit", "--dry-run", "--json")
    assert pushed.exit_code == 0, pushed.stderr
    report = json.loads(pushed.stdout)
    paths = {file["path"] for file in report["files"]}
    assert {"model.safetensors", "config.json", "processor_config.json", "README.md"} <= paths
    assert not any("checkpoint-" in path or "adapter" in path for path in paths)
    assert any("adapter" in name for name in report["left_out"])


def test_two_processes_are_one_with_twice_the_batch(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Straight, and going on from the middle of an epoch; only the first process writes."""
    data, model = folders
    common = [str(data), "--model", str(model), "--steps", "4", "--eval-every", "2", "--objects", "2", "--rounds", "2"]
    common += ["--learning-rate", "1e-3", "--eval-data", str(data), "--cpu"]
    out = {name: tmp_path / name for name in ("two", "resumed", "one")}
    calls = [
        [*common, "--batch-size", "1", "--out", str(out["two"])],
        [*common, "--batch-size", "1", "--out", str(out["resumed"]), "--resume", str(out["two"] / "checkpoint-2")],
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    # for accelerate, several processes on CPUs are MPI's or the same launcher as several GPUs
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    script = str(Path(__file__).with_name("launched_training.py"))
    ran = subprocess.run(
        [*launcher, script, *(json.dumps(call) for call in calls)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout.count("4 steps in") == 2
    assert run("train", *common, "--batch-size", 2, "--out", out["one"]).exit_code == 0
    two, resumed, one = (weights(folder / "checkpoint-4") for folder in out.values())
    assert all(torch.equal(two[name], tensor) for name, tensor in resumed.items())
    assert max((two[name] - tensor).abs().max() for name, tensor in one.items()) < 1e-4
    assert max((one[name] - tensor).abs().max() for name, tensor in weights(model).items()) > 1e-3
    records = [json.loads((folder / "training.json").read_text()) for folder in out.values()]
    assert records[0]["arguments"] == records[2]["arguments"]
    assert records[0]["best"] == pytest.approx(records[2]["best"], abs=1e-3)
    assert weights(out["two"]).keys() == weights(model).keys()
