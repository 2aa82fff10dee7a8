"""Distillation: students that take over a teacher's decoder and learn its embeddings, then its answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TINY_VISION, WIDTH, save_tiny, tiny_config, tiny_model, tiny_video_model
from torch import nn
from transformers import AutoModel, AutoProcessor

from sam_variants.hub_scripts.cli import app
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.modeling_sam_variants_video import SamVariantsVideoModel
from sam_variants.processing.processor_for import processor_for
from sam_variants.training.decoder_alignment import AlignmentRows, DecoderAlignment, agreement, boxes_around
from sam_variants.training.distillation import Distillation, DistillationSettings
from sam_variants.training.embedding_distillation import EmbeddingDistiller, collate_levels, resized
from sam_variants.training.embedding_shards import embed_dataset
from sam_variants.training.image_rows import ImageRow, open_images
from sam_variants.training.mask_batches import EpochRow
from sam_variants.training.masked_image import MaskedImage
from sam_variants.training.prompted_loss import Prompts, ask
from sam_variants.training.student_config import STUDENT_SIZES, build_student, read_student, teacher_processor

HALF = TINY_VISION["tiny_vit"] | {"embed_dims": [8, 12, 16, 20], "out_chans": 7}
FAST = DistillationSettings(
    epochs=6, batch_size=3, learning_rate=0.01, held_out=0.2, save_steps=1000, objects=3, seed=1, cache_dtype="float32"
)


class Squares:
    """Images of different sizes with a bright square each, whose place and brightness a row number tells."""

    fingerprint = "squares"

    def __init__(self, count: int = 10, with_masks: bool = False, fails_at: int | None = None) -> None:
        self.count, self.with_masks, self.fails_at, self.reads = count, with_masks, fails_at, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        if self.reads == self.fails_at:
            raise KeyboardInterrupt
        height, width = 64 - 2 * index, 40 + 2 * index
        mask = np.zeros((1, height, width), bool)
        mask[0, 4 + index : 20 + index, 3:25] = True
        image = np.where(mask[0, ..., None], 120 + 10 * index, 20 * index % 90).astype(np.uint8).repeat(3, axis=2)
        return MaskedImage(image, mask) if self.with_masks else ImageRow(image)


def learn(out: Path, student: Any = HALF, teacher: SamVariantsModel | None = None, **options: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    teacher = tiny_model("tiny_vit_with_skips") if teacher is None else teacher
    images, resume = options.pop("images", Squares()), options.pop("resume", False)
    built = build_student(teacher, student, options.pop("image_size", None), options.pop("projection", False))
    return Distillation(teacher, built, images, out, replace(FAST, **options), cpu=True).run(resume)


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


def disturb(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))


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
    memory = [name for name in teacher.state_dict() if name.startswith(("memory_", "maskmem", "obj_ptr"))]
    assert memory
    assert all(torch.equal(student.state_dict()[name], teacher.state_dict()[name]) for name in memory)


def test_the_teacher_sees_what_the_student_sees() -> None:
    teacher, student = tiny_model("hiera"), build_student(tiny_model("hiera"), HALF).model
    prepared = teacher_processor(teacher, student)
    wide = np.full((32, 64, 3), 255, np.uint8)
    pixels = prepared(images=wide, return_tensors="pt")["pixel_values"][0]
    assert pixels[:, :32].min() > 2  # white, in SAM 2's normalisation
    assert pixels[:, 32:].abs().max() == 0  # padded as the student's input is
    assert teacher_processor(teacher, teacher).resize_mode == "square"


def test_maps_of_another_size_are_resized() -> None:
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    small = resized(ramp, torch.zeros(1, 1, 4, 4))
    torch.testing.assert_close(small[0, 0, 0, 1:3], torch.tensor([2.5, 4.5]))
    assert resized(ramp.half(), torch.zeros(1, 1, 8, 8)).dtype == torch.float32


def test_the_teacher_itself_is_at_no_distance(tmp_path: Path) -> None:
    teacher = tiny_model("tiny_vit_with_skips")
    twin, images = build_student(teacher, teacher).model, Squares(4)
    processor = processor_for(teacher)
    shards = embed_dataset(teacher, processor, images, tmp_path / "cache", dtype="float32")
    rows = AlignmentRows(images, range(4), processor, shards, processor.image_processor, 5, 3, seed=0)
    batch = collate_levels([rows[EpochRow(0, row)] for row in range(4)])
    with torch.no_grad():
        found = EmbeddingDistiller(twin, [1.0, 1.0, 1.0])(batch["pixel_values"], batch["targets"])
    assert found["loss"] < 1e-9
    alignment = DecoderAlignment(twin, teacher, rounds=3)
    reached = agreement(alignment, [batch])
    assert min(reached.values()) > 0.99
    nn.init.normal_(twin.mask_decoder.mask_tokens.weight)
    assert min(agreement(alignment, [batch]).values()) < 0.95


def test_alignment_brings_the_answers_nearer_and_touches_the_decoder_alone(tmp_path: Path) -> None:
    teacher = tiny_model("vit")
    built = build_student(teacher, teacher)
    student = built.model
    encoder = {name: tensor.clone() for name, tensor in student.image_encoder.state_dict().items()}
    disturb(student.mask_decoder.output_upscaling)
    run = Distillation(
        teacher,
        built,
        Squares(with_masks=True),
        tmp_path / "out",
        replace(FAST, epochs=0, alignment_epochs=20, alignment_learning_rate=0.003),
        cpu=True,
    )
    report = run.run()
    before, after = report["alignment"]["before"], report["alignment"]["after"]
    assert sum(after.values()) > sum(before.values())
    learned = AutoModel.from_pretrained(tmp_path / "out")
    assert all(torch.equal(tensor, encoder[name]) for name, tensor in learned.image_encoder.state_dict().items())
    assert torch.equal(learned.prompt_encoder.no_mask_embed.weight, teacher.prompt_encoder.no_mask_embed.weight)
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_clicks_are_on_objects_where_masks_are_known_and_the_same_in_every_run(tmp_path: Path) -> None:
    teacher, images = tiny_model("vit"), Squares(3, with_masks=True)
    processor = processor_for(teacher)
    shards = embed_dataset(teacher, processor, images, tmp_path / "cache")
    larger = processor.image_processor.updated(image_size=128)
    rows = AlignmentRows(images, [2, 1], processor, shards, larger, 20, 2, seed=3)
    example = rows[EpochRow(4, 0)]
    scale = 64 / 60  # row 2 is 60 pixels high
    x, y = (example["points"] / scale).T
    assert bool(((x >= 2.5) & (x <= 25) & (y >= 5.5) & (y <= 22)).all())
    torch.testing.assert_close(example["to_teacher"], torch.tensor([2.0, 2.0]), atol=0.02, rtol=0)
    again, later = rows[EpochRow(4, 0)], rows[EpochRow(5, 0)]
    assert all(torch.equal(example[name], again[name]) for name in ("points", "use_box", "jitter", "draws"))
    assert not torch.equal(example["points"], later["points"])
    anywhere = AlignmentRows(Squares(3), [2], processor, shards, larger, 200, 2, seed=3)[EpochRow(0, 0)]["points"]
    assert bool((anywhere[:, 0] > 30).any())
    assert bool((anywhere.amax(dim=0) <= torch.tensor([44 * scale, 64])).all())


def test_teacher_and_student_are_asked_about_the_same_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = tiny_model("vit")
    images, student = Squares(2, with_masks=True), build_student(teacher, teacher, image_size=128).model
    prepared = teacher_processor(teacher, student)
    shards = embed_dataset(teacher, prepared, images, tmp_path / "cache")
    rows = AlignmentRows(images, [0, 1], processor_for(student), shards, prepared, 12, 2, seed=0)
    asked: dict[Any, list[Prompts]] = {teacher: [], student: []}

    def noted(model: Any, levels: Any, prompts: Prompts, is_object: Any) -> Any:
        asked[model].append(prompts)
        return ask(model, levels, prompts, is_object)

    monkeypatch.setattr("sam_variants.training.decoder_alignment.ask", noted)
    loss = DecoderAlignment(student, teacher, rounds=2)(**collate_levels([rows[EpochRow(0, row)] for row in (0, 1)]))
    assert loss["loss"].isfinite()
    assert len(asked[student]) == len(asked[teacher]) - 1 == 2  # the teacher is asked for the boxes, too
    for theirs, own in zip(asked[teacher][1:], asked[student], strict=True):
        is_point, is_box = own.labels >= 0, own.boxes[..., 0] >= 0
        assert is_box.any()
        torch.testing.assert_close(theirs.points[is_point], own.points[is_point] / 2, atol=0.6, rtol=0.01)
        torch.testing.assert_close(theirs.boxes[is_box], own.boxes[is_box] / 2, atol=0.6, rtol=0.01)
        assert torch.equal(theirs.points[~is_point], own.points[~is_point])
        assert torch.equal(theirs.labels, own.labels)


def test_boxes_are_around_masks() -> None:
    masks = torch.zeros(1, 2, 6, 8, dtype=torch.bool)
    masks[0, 0, 2:5, 3:4] = True
    masks[0, 1, 0:6, 0:8] = True
    assert boxes_around(masks).tolist() == [[[3, 2, 4, 5], [0, 0, 8, 6]]]


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
    learn(tmp_path / "cut", resume=True, **options)
    whole, cut = (AutoModel.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(tensor, cut[name]) for name, tensor in whole.items())
    with pytest.raises(ValueError, match="there is no run to go on with"):
        learn(tmp_path / "new", resume=True)


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": 2.0}, {"held_out": 0.0}, {"alignment_epochs": -1}]
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
