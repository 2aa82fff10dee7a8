"""Distillation: students that take over a teacher's decoder and learn its embeddings, then its answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distillation_examples import FAST, HALF, Squares, learn
from PIL import Image
from tiny import TINY_VISION, WIDTH, save_tiny, tiny_config, tiny_model, tiny_video_model
from torch import Tensor
from transformers import AutoModel, AutoProcessor

from sam_variants.hub_scripts.cli import app
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.modeling_sam_variants_video import SamVariantsVideoModel
from sam_variants.training.embedding_distillation import resized, spreads_of
from sam_variants.training.image_rows import open_images
from sam_variants.training.student_config import STUDENT_SIZES, build_student, read_student, teacher_processor


@pytest.mark.parametrize("student", ["tiny_vit", "vit", "hiera", "tiny_vit_with_skips"])
@pytest.mark.parametrize("teacher", ["tiny_vit", "vit", "hiera", "tiny_vit_with_skips"])
def test_a_student_takes_over_everything_but_the_encoder(teacher: str, student: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = tiny_model(teacher)
    built = build_student(source, TINY_VISION[student] | {"image_size": 96}).model
    ours, theirs = built.state_dict(), source.state_dict()
    shared = [name for name in theirs if not name.startswith(("image_encoder.", "mask_decoder.conv_s"))]
    assert all(torch.equal(ours[name], theirs[name]) for name in shared)
    assert built.config.image_size == built.config.prompt_encoder_config.input_image_size == 96
    has_skips = teacher in ("hiera", "tiny_vit_with_skips") and student != "vit"
    assert (built.config.mask_decoder_config.high_resolution_channels is not None) == has_skips
    pixels = torch.randn(1, 3, 96, 96)
    points, labels = torch.tensor([[[[20.0, 30.0]]]]), torch.ones(1, 1, 1, dtype=torch.long)
    built.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    with torch.no_grad():
        expected, found = (model(pixels, points, labels) for model in (built, loaded))
    torch.testing.assert_close(found.pred_masks, expected.pred_masks)


@pytest.mark.parametrize("size", [0, 50])
def test_a_size_that_fits_no_encoder_is_refused(size: int) -> None:
    for student in (HALF, tiny_model("tiny_vit")):
        with pytest.raises(ValueError, match=f"image_size={size}"):
            build_student(tiny_model("vit"), student, size)
    with pytest.raises(ValueError, match=f"image_size={size}"):
        build_student(tiny_model("vit"), {"vision_config": HALF, "image_size": size})


def test_published_sizes_are_students_of_any_width() -> None:
    with torch.device("meta"):
        sizes = {name: AutoModel.from_config(read_student(name).vision_config) for name in STUDENT_SIZES}
    counts = {name: sum(parameter.numel() for parameter in model.parameters()) for name, model in sizes.items()}
    assert 5e6 < counts["tiny-vit-5m"] < 7e6 < 10e6 < counts["tiny-vit-11m"] < 13e6
    assert 19e6 < counts["tiny-vit-21m"] < 23e6
    student = build_student(tiny_model("vit"), "tiny-vit-5m").model
    assert (student.config.image_size, student.config.vision_config.out_chans) == (64, WIDTH)


def test_a_file_or_a_checkpoint_tells_the_student(tmp_path: Path) -> None:
    teacher = tiny_model("vit")
    (tmp_path / "half.json").write_text(json.dumps(HALF))
    assert build_student(teacher, tmp_path / "half.json").model.config.vision_config.embed_dims == [8, 12, 16, 20]
    whole = json.dumps({"vision_config": HALF, "image_size": 128})
    (tmp_path / "whole.json").write_text(whole)
    assert build_student(teacher, str(tmp_path / "whole.json")).model.config.image_size == 128
    folder = save_tiny(tmp_path / "begun", "tiny_vit", seed=5)
    begun = build_student(teacher, folder).model.state_dict()
    encoder = AutoModel.from_pretrained(folder).image_encoder.state_dict()
    assert all(torch.equal(begun[f"image_encoder.{name}"], tensor) for name, tensor in encoder.items())
    assert torch.equal(begun["mask_decoder.iou_token.weight"], teacher.mask_decoder.iou_token.weight)


@pytest.mark.parametrize(
    ("student", "problem"),
    [
        ("tiny-vit-6m", "is neither a size"),
        ({"embed_dims": [8]}, "needs a model_type"),
        (3, "student must be a name"),
        (tiny_config("vit").mask_decoder_config, "give the configuration of an image encoder"),
    ],
)
def test_what_is_no_student_is_refused(student: Any, problem: str) -> None:
    with pytest.raises((ValueError, TypeError), match=problem):
        build_student(tiny_model("vit"), student)


def narrow_model() -> SamVariantsModel:
    """A whole model of another width than the tiny ones."""
    config = tiny_config("tiny_vit").to_dict()
    for part, name in (("vision_config", "out_chans"), ("prompt_encoder_config", "embed_dim")):
        config[part][name] = 16
    config["mask_decoder_config"]["transformer_dim"] = 16
    return SamVariantsModel(type(tiny_config("vit"))(**config))


def test_a_checkpoint_of_another_width_wants_a_projection(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="have 16 channels and the teacher's 32"):
        build_student(tiny_model("vit"), narrow_model())
    with pytest.raises(ValueError, match="a projection is for a student with"):
        build_student(tiny_model("vit"), HALF, projection=True)
    student = narrow_model()
    report = learn(tmp_path / "out", student, tiny_model("vit"), projection=True)
    assert report["embeddings"]["after"]["mse"] < report["embeddings"]["before"]["mse"]
    learned = AutoModel.from_pretrained(tmp_path / "out")
    assert learned.config.vision_config.out_chans == 16
    own = student.mask_decoder.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in learned.mask_decoder.state_dict().items())


def test_a_student_learns_the_embeddings(tmp_path: Path) -> None:
    teacher = tiny_model("tiny_vit_with_skips")
    report = learn(tmp_path / "out", teacher=teacher, epochs=12)
    before, after = report["embeddings"]["before"], report["embeddings"]["after"]
    assert after["mse"] < 0.8 * before["mse"]
    assert all(now < then for now, then in zip(after["finer_mse"], before["finer_mse"], strict=True))
    assert report == json.loads((tmp_path / "out" / "distillation.json").read_text())
    assert (report["images"], report["held_out"]) == (8, 2)
    assert "library_name: transformers" in (tmp_path / "out" / "README.md").read_text()
    student = AutoModel.from_pretrained(tmp_path / "out")
    rest = [name for name in teacher.state_dict() if name.startswith(("mask_decoder.", "prompt_encoder."))]
    for name in rest:
        assert "conv_s" in name or torch.equal(student.state_dict()[name], teacher.state_dict()[name])
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    prepared = processor(images=Squares()[0].image, input_points=[[[10, 10]]], return_tensors="pt")
    assert (
        student(**{k: prepared[k] for k in ("pixel_values", "input_points", "input_labels")})
        .pred_masks.isfinite()
        .all()
    )


def test_a_video_teacher_of_sam2_gives_its_levels_and_its_memory(tmp_path: Path) -> None:
    teacher = tiny_video_model("hiera")
    report = learn(tmp_path / "out", teacher=teacher, image_size=128, epochs=8)
    assert any("4x4 are resized to 8x8" in note for note in report["notes"])
    assert any("longest_side instead of square" in note for note in report["notes"])
    before, after = report["embeddings"]["before"], report["embeddings"]["after"]
    assert after["mse"] < before["mse"]
    assert len(after["finer_mse"]) == 2
    student = AutoModel.from_pretrained(tmp_path / "out")
    assert isinstance(student, SamVariantsVideoModel)
    memory = [name for name in teacher.state_dict() if name.startswith(("memory_", "maskmem", "obj_ptr", "no_mem"))]
    assert "no_mem_embed" in memory  # the memory is fed without it
    assert all(torch.equal(student.state_dict()[name], teacher.state_dict()[name]) for name in memory)


def test_the_teacher_sees_what_the_student_sees() -> None:
    teacher, student = tiny_model("hiera"), build_student(tiny_model("hiera"), HALF).model
    prepared = teacher_processor(teacher, student)
    wide = np.full((32, 64, 3), 255, np.uint8)
    pixels = prepared(images=wide, return_tensors="pt")["pixel_values"][0]
    assert pixels[:, :32].min() > 2  # white, in SAM 2's normalisation
    assert pixels[:, 32:].abs().max() == 0  # padded as the student's input is
    assert teacher_processor(teacher, teacher).resize_mode == "square"


def test_the_spread_of_maps_is_taken_row_by_row() -> None:
    generator = torch.Generator().manual_seed(0)
    stored = [[torch.randn(3, 8, 8, generator=generator), torch.randn(5, 4, 4, generator=generator)] for _ in range(9)]
    held: list[weakref.ref] = []

    class Rows:
        def __getitem__(self, row: int) -> list[Tensor]:
            assert sum(kept() is not None for kept in held) <= 4  # the row before, of two maps, and what is made of it
            maps = [level.double() for level in stored[row]]
            held.extend(map(weakref.ref, maps))
            return maps

    spreads = spreads_of(Rows(), range(9), 2)  # type: ignore[arg-type]
    for place, spread in enumerate(spreads):
        channels = torch.stack([levels[place] for levels in stored]).transpose(0, 1).flatten(1)
        assert spread == pytest.approx(float(channels.var(dim=1, correction=0).mean()), rel=1e-5)


def test_maps_of_another_size_are_resized() -> None:
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    small = resized(ramp, torch.zeros(1, 1, 4, 4))
    torch.testing.assert_close(small[0, 0, 0, 1:3], torch.tensor([2.5, 4.5]))
    assert resized(ramp.half(), torch.zeros(1, 1, 8, 8)).dtype == torch.float32


def test_an_interrupted_run_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 3, "save_steps": 2, "alignment_epochs": 1}
    learn(tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path / "cut", images=Squares(fails_at=40), **options)
    assert list((tmp_path / "cut" / "checkpoints" / "embeddings").glob("checkpoint-*"))
    with pytest.raises(ValueError, match=r"isn't empty: name a new folder, or go on with its run \(--resume\)"):
        learn(tmp_path / "cut", **options)
    with pytest.raises(ValueError, match=r"holds another run: learning_rate was 0\.01, is 0\.02"):
        learn(tmp_path / "cut", resume=True, learning_rate=0.02, **options)
    with pytest.raises(ValueError, match=r"holds another run: .*student_image_size was 64, is 96"):
        learn(tmp_path / "cut", resume=True, image_size=96, **options)
    learn(tmp_path / "cut", resume=True, **options)
    whole, cut = (AutoModel.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(tensor, cut[name]) for name, tensor in whole.items())
    with pytest.raises(ValueError, match="there is no run to go on with"):
        learn(tmp_path / "new", resume=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"epochs": float("nan")},
        {"batch_size": 0},
        {"learning_rate": 2.0},
        {"held_out": 0.0},
        {"alignment_epochs": -1},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(FAST, **wrong)


def test_the_command_needs_images_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(4):
        Image.fromarray(Squares()[number].image).save(tmp_path / "photos" / f"{number}.png")
    teacher = save_tiny(tmp_path / "teacher", "tiny_vit_with_skips")
    (tmp_path / "half.json").write_text(json.dumps(HALF))
    arguments = [
        "distill",
        str(tmp_path / "photos"),
        "--teacher",
        str(teacher),
        "--student",
        str(tmp_path / "half.json"),
    ]
    arguments += ["--epochs", "1", "--align", "1", "--cpu", "--batch-size", "2", "--objects", "2"]
    with pytest.raises(SystemExit) as ended:
        app([*arguments, "--out", str(tmp_path / "student")])
    assert ended.value.code == 0
    told = capsys.readouterr().err
    assert "4 images in column 'image'" in told
    assert "mean squared error" in told
    assert "agreement with the teacher's masks" in told
    model = AutoModel.from_pretrained(tmp_path / "student")
    assert model.config.vision_config.embed_dims == [8, 12, 16, 20]
    with pytest.raises(SystemExit):
        app([*arguments, "--out", str(tmp_path / "student")])
    assert "isn't empty" in capsys.readouterr().err


def test_two_processes_share_the_images(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(6):
        Image.fromarray(Squares()[number].image).save(tmp_path / "photos" / f"{number}.png")
    teacher, out = save_tiny(tmp_path / "teacher", "tiny_vit_with_skips"), tmp_path / "student"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = ["-m", "sam_variants.hub_scripts.cli", "distill", tmp_path / "photos", "--teacher", teacher, "--cpu"]
    options = ["--student", teacher, "--out", out, "--epochs", "1", "--align", "1", "--batch-size", "1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [str(part) for part in (*launcher, *command, *options)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stderr.count("agreement with the teacher's masks") == 1
    assert len(list((out / "teacher_embeddings").glob("rows-*"))) == 2
    report = json.loads((out / "distillation.json").read_text())
    assert (report["images"], report["settings"]["processes"]) == (5, 2)
    state = json.loads(next((out / "checkpoints" / "embeddings").glob("*/trainer_state.json")).read_text())
    assert state["global_step"] == 3  # five images, two at once
    assert AutoModel.from_pretrained(out).dtype == torch.float32


def test_images_of_any_column(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    pictures = [Image.fromarray(Squares()[number].image) for number in range(3)]
    photos = datasets.Dataset.from_dict({"photo": pictures, "n": [1, 2, 3]}).cast_column("photo", datasets.Image())
    images = open_images(photos)
    assert np.array_equal(images[1].image, Squares()[1].image)
    assert images.report() == "dataset: 3 images in column 'photo'"
    assert images.fingerprint == open_images(photos).fingerprint != open_images(photos.select([0, 1])).fingerprint
    with pytest.raises(ValueError, match="there is no column 'img'; the columns are"):
        open_images(photos, column="img")
    with pytest.raises(ValueError, match="no column holds images"):
        open_images(photos.remove_columns("photo"))
    with pytest.raises(TypeError, match="has no row numbers"):
        open_images(photos.to_iterable_dataset())
    with pytest.raises(ValueError, match="row 0, column 'n'"):
        open_images(photos, column="n")[0]
