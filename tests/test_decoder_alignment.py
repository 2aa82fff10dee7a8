"""Decoder alignment: a student's decoder learns a teacher's answers, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from distillation_examples import FAST, Squares
from tiny import tiny_model
from torch import nn
from transformers import AutoModel

from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.processing.processor_for import processor_for
from sam_variants.training.decoder_alignment import (
    AlignmentRows,
    DecoderAlignment,
    agreement,
    answer_loss,
    boxes_around,
    weights_of,
)
from sam_variants.training.distillation import Distillation
from sam_variants.training.embedding_distillation import EmbeddingDistiller, collate_levels
from sam_variants.training.embedding_shards import embed_dataset
from sam_variants.training.mask_batches import EpochRow
from sam_variants.training.prompted_loss import Answer, Prompts, ask
from sam_variants.training.student_config import build_student, teacher_processor


def disturb(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))


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


def aligned(teacher: SamVariantsModel, student: SamVariantsModel, rounds: int, folder: Path) -> Any:
    """The module and a batch of two padded images, one wide and one high."""
    prepared = teacher_processor(teacher, student)
    shards = embed_dataset(teacher, prepared, Squares(10), folder, dtype="float32")
    rows = AlignmentRows(Squares(10), [0, 9], processor_for(student), shards, prepared, 12, rounds, seed=2)
    return DecoderAlignment(student, teacher, rounds), collate_levels([rows[EpochRow(0, row)] for row in (0, 1)])


@pytest.mark.parametrize("name", ["tiny_vit_with_skips", "vit"])
def test_a_student_that_answers_as_its_teacher_has_nothing_to_learn(name: str, tmp_path: Path) -> None:
    teacher = tiny_model(name)
    alignment, batch = aligned(teacher, build_student(teacher, teacher).model, 2, tmp_path / "cache")
    alignment(**batch)["loss"].backward()
    slopes = [parameter.grad.abs().max() for parameter in alignment.parameters() if parameter.grad is not None]
    assert max(slopes) < 1e-5
    disturb(alignment.student.mask_decoder.output_upscaling)
    alignment(**batch)["loss"].backward()
    assert max(parameter.grad.abs().max() for parameter in alignment.student.mask_decoder.parameters()) > 1e-3


def test_masks_do_not_grow_where_the_teacher_is_in_doubt() -> None:
    doubt = torch.full((1, 1, 4, 16, 16), -0.5)
    doubt[..., 4:10, 4:10] = 2.0
    theirs = Answer(doubt, torch.full((1, 1, 4), 0.7), None)
    logits = nn.Parameter(torch.zeros_like(doubt))
    optimizer = torch.optim.Adam([logits], 0.1)
    for _ in range(200):
        optimizer.zero_grad()
        answer_loss(
            Answer(logits, theirs.iou, None), theirs, torch.ones(1, dtype=torch.bool), torch.ones(1, 1)
        ).backward()
        optimizer.step()
    torch.testing.assert_close(logits.detach(), doubt, atol=0.05, rtol=0)


def test_a_score_tells_what_the_students_own_mask_is_worth() -> None:
    theirs_logits, own_logits = torch.full((2, 1, 1, 4, 8, 8), -9.0)
    theirs_logits[..., :4, :] = 9.0
    own_logits[:, :, :2, :4, :] = 9.0  # as the teacher
    own_logits[:, :, 2, :2, :] = 9.0  # half of it
    own_logits[:, :, 3, 4:, :] = 9.0  # nothing of it
    theirs, scores = Answer(theirs_logits, torch.full((1, 1, 4), 0.8), None), nn.Parameter(torch.zeros(1, 1, 4))
    answer_loss(Answer(own_logits, scores, None), theirs, torch.ones(1, dtype=torch.bool), torch.ones(1, 1)).backward()
    expected = torch.tensor([0.8, 0.8, 0.4, 0.0])
    torch.testing.assert_close(-scores.grad[0, 0] * scores.numel() / 2, expected)  # type: ignore[index]


def test_padding_is_no_part_of_a_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = tiny_model("vit")
    student = build_student(teacher, teacher, image_size=128).model
    alignment, batch = aligned(teacher, student, 3, tmp_path / "cache")
    assert batch["inner"].tolist() == [[80.0, 128.0], [128.0, 102.0]]
    asked: list[Prompts] = []

    def noted(model: Any, levels: Any, prompts: Prompts, is_object: Any) -> Answer:
        asked.extend([prompts] if model is student else [])
        answer = ask(model, levels, prompts, is_object)
        cells = answer.logits.shape[-1]
        logits = answer.logits.clone()  # masks that would cover all padding
        logits[0, ..., 80 * cells // 128 :] = 9.0
        logits[1, ..., 102 * cells // 128 + 1 :, :] = 9.0
        return answer._replace(logits=logits)

    monkeypatch.setattr("sam_variants.training.decoder_alignment.ask", noted)
    alignment(**batch)
    limits = batch["inner"][:, None].repeat(1, 12, 1)
    for prompts in asked:
        is_box, is_point = prompts.boxes[..., 0] >= 0, prompts.labels >= 0
        assert bool((prompts.boxes[is_box] <= limits.repeat(1, 1, 2)[is_box]).all())
        points, within = prompts.points[is_point], limits[:, :, None].expand_as(prompts.points)[is_point]
        assert bool((points < within + 2).all())  # the cells of a border show a little of both
    own = Answer(torch.randn(1, 1, 4, 8, 8), torch.rand(1, 1, 4), None)
    other = own._replace(logits=own.logits.clone())
    other.logits[..., 5:] = torch.randn(8, 3)
    is_image = torch.arange(8) < 5
    theirs = Answer(torch.randn(1, 1, 4, 8, 8), torch.rand(1, 1, 4), None)
    everything, weights = torch.ones(8, dtype=torch.bool), torch.ones(1, 1)
    assert answer_loss(own, theirs, is_image, weights) == answer_loss(other, theirs, is_image, weights)
    assert answer_loss(own, theirs, everything, weights) != answer_loss(other, theirs, everything, weights)


def test_clicks_anywhere_count_things_and_not_pixels() -> None:
    masks = torch.zeros(1, 4, 10, 10, dtype=torch.bool)
    masks[0, 0, :8], masks[0, 1, :, :1], masks[0, 2, :5] = True, True, True  # 80, 10 and 50 cells; nothing
    weights = weights_of(masks, torch.tensor([[True, True, False, False]]))
    assert float(weights[0, 1] / weights[0, 0]) == pytest.approx(8)
    assert weights[0, :2].mean() == weights[0, 2] == weights[0, 3] == 1
    assert weights_of(masks, torch.zeros(1, 4, dtype=torch.bool)).tolist() == [[1.0] * 4]
    assert float(weights_of(masks, torch.ones(1, 4, dtype=torch.bool))[0, 3]) < 4  # an empty mask is no exception
    answers = [Answer(torch.randn(1, 4, 4, 8, 8), torch.rand(1, 4, 4), None) for _ in range(2)]
    lighter = answers[0]._replace(logits=answers[0].logits.clone())
    lighter.logits[0, 1] = 5.0
    only_first = torch.tensor([[4.0, 0, 0, 0]])
    everything = torch.ones(8, dtype=torch.bool)
    assert answer_loss(answers[0], answers[1], everything, only_first) == answer_loss(
        lighter, answers[1], everything, only_first
    )


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
    assert not example["is_anywhere"].any()
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
