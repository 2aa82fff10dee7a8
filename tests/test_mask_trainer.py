"""Training on images with masks: what is learnt, resumed, cached, adapted, and refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from masked_data import rectangle_data, rectangle_rows
from tiny import TINY_VISION, tiny_model, tiny_video_model
from transformers import AutoModel

from sam_variants.processing.processor_for import processor_for
from sam_variants.training import quality_while_training
from sam_variants.training.mask_batches import EpochOrder, EpochRow, PromptedRows, PromptedStream, PromptPlan, collate
from sam_variants.training.mask_datasets import open_masks
from sam_variants.training.mask_trainer import MaskTrainer, MaskTrainingArguments
from sam_variants.training.mask_training import RunOptions, checkpoint_to_resume, prepared, train_masks
from sam_variants.training.prompted_loss import PromptedLoss
from sam_variants.training.quality_while_training import quality_sums

COUNTS = [2, 3, 1, 2, 3, 2]


def seeded_model(name: str = "tiny_vit") -> Any:
    torch.manual_seed(0)
    return tiny_model(name)


def run(out: Path, data: Any = None, eval_data: Any = None, options: RunOptions | None = None, **arguments: Any) -> Any:
    """A short run of a tiny model: the model and what `training.json` says."""
    model = seeded_model(arguments.pop("encoder", "tiny_vit"))
    given = {
        "output_dir": str(out),
        "use_cpu": True,
        "max_steps": 2,
        "save_strategy": "no",
        "objects_per_image": 2,
        "rounds": 2,
        "learning_rate": 1e-3,
        "disable_tqdm": True,
        **arguments,
    }
    data = rectangle_data(COUNTS) if data is None else data
    result = train_masks(model, processor_for(model), data, MaskTrainingArguments(**given), eval_data, options)
    return model, result


def same(one: Any, other: Any) -> bool:
    states = one.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][name], states[1][name]) for name in states[0]
    )


def largest_difference(one: Any, other: Any) -> float:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs if a.is_floating_point())


def batch_for(model: Any, rows: list[int], **plan: Any) -> dict[str, Any]:
    examples = PromptedRows(rectangle_data(COUNTS), processor_for(model), PromptPlan(num_objects=3, **plan))
    return collate([examples[EpochRow(0, row)] for row in rows])


@pytest.mark.parametrize("name", [*TINY_VISION, "video"])
def test_every_variant_learns(name: str) -> None:
    model: Any = tiny_video_model() if name == "video" else tiny_model(name)
    loss = PromptedLoss(model, num_rounds=3).train()(batch_for(model, [0, 1]))
    loss.backward()
    assert torch.isfinite(loss)
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    parts = ("image_encoder", "prompt_encoder", "mask_decoder")
    # a mask that is never the best of the three isn't trained; the rest of a video model is memory
    assert not [n for n in idle if n.startswith(parts) and "hypernetworks" not in n]
    if name == "video":
        assert model.mask_decoder.pred_obj_score_head.layers[0].weight.grad.abs().sum() > 0


def test_loss_of_an_object_depends_on_nothing_else() -> None:
    """Padding objects, other images and their number of objects change nothing: losses add up."""
    model = seeded_model()
    loss = PromptedLoss(model, num_rounds=3).train()
    apart = sum(loss(batch_for(model, [row])) for row in (0, 1))
    assert torch.allclose(loss(batch_for(model, [0, 1])), apart, rtol=1e-4)
    data = rectangle_data([2, 0])
    examples = PromptedRows(data, processor_for(model), PromptPlan(num_objects=3))
    alone, empty = examples[EpochRow(0, 0)], examples[EpochRow(0, 1)]
    assert torch.allclose(loss(collate([alone, empty])), loss(collate([alone])), rtol=1e-4)
    assert loss(collate([empty])).item() == 0


def test_batch_norms_keep_their_statistics() -> None:
    model = seeded_model()
    before = {name: tensor.clone() for name, tensor in model.named_buffers()}
    PromptedLoss(model, 1).train()(batch_for(model, [0, 1]))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.named_buffers())
    PromptedLoss(model, 1, trains_batch_norm=True).train()(batch_for(model, [0, 1]))
    assert not all(torch.equal(before[name], tensor) for name, tensor in model.named_buffers())


def test_examples_belong_to_seed_epoch_and_row() -> None:
    def example(seed: int, epoch: int, **plan: Any) -> dict[str, Any]:
        processor = processor_for(tiny_model("tiny_vit"))
        return PromptedRows(rectangle_data(COUNTS), processor, PromptPlan(seed=seed, **plan))[EpochRow(epoch, 1)]

    first = example(0, 0)
    assert all(torch.equal(value, example(0, 0)[key]) for key, value in first.items())
    for other in (example(1, 0), example(0, 1)):
        assert not torch.equal(first["pixel_values"], other["pixel_values"])
        assert not torch.equal(first["draws"], other["draws"])
    plain = example(0, 0, augment=False)
    assert torch.equal(plain["pixel_values"], example(3, 2, augment=False)["pixel_values"])


def test_targets_lie_where_prompts_point() -> None:
    """Masks, clicks and boxes go through flips, crops and resizing together."""
    model = tiny_model("tiny_vit")
    examples = PromptedRows(rectangle_data([3] * 8), processor_for(model), PromptPlan(num_objects=3))
    for row in range(8):
        example = examples[EpochRow(0, row)]
        assert example["targets"].shape == (3, 16, 16)
        for target, (x, y), box in zip(example["targets"], example["points"], example["boxes"], strict=True):
            assert target[int(y) // 4, int(x) // 4] > 0
            columns = torch.nonzero(target.amax(dim=0) > 0.5).flatten() * 4
            assert box[0] - 8 <= columns[0]
            assert columns[-1] <= box[2] + 8


def test_order_is_a_new_permutation_in_every_epoch() -> None:
    order = EpochOrder(20, seed=3)
    first = list(order)
    order.set_epoch(1)
    second = list(order)
    assert sorted(place.row for place in first) == list(range(20)) == sorted(place.row for place in second)
    assert [place.row for place in first] != [place.row for place in second]
    assert {place.epoch for place in second} == {1}


@pytest.mark.parametrize("source", ["rows", "stream"])
def test_resumed_run_is_the_run(source: str, tmp_path: Path) -> None:
    """Six steps over two epochs, and three of them from a checkpoint in the middle of an epoch, with workers."""

    def data() -> Any:
        rows = rectangle_rows([*COUNTS, 0, 1])
        return open_masks(rows if source == "rows" else rows.to_iterable_dataset(num_shards=2))

    how: dict[str, Any] = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    how |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "logging_steps": 1}
    workers = 0 if source == "rows" else 1
    straight, result = run(tmp_path / "straight", data(), dataloader_num_workers=workers, **how)
    resume = RunOptions(resume=tmp_path / "straight" / "checkpoint-3")
    resumed, again = run(tmp_path / "resumed", data(), options=resume, dataloader_num_workers=1, **how)
    assert same(straight, resumed)
    assert not same(straight, AutoModel.from_pretrained(tmp_path / "straight" / "checkpoint-3"))
    assert same(straight, AutoModel.from_pretrained(tmp_path / "straight"))
    if source == "rows":
        assert result["rows_without_objects"] == again["rows_without_objects"] > 1
        with pytest.raises(ValueError, match=r"another run: learning_rate was 0\.001, is 0\.002"):
            run(tmp_path / "other", data(), options=resume, **{**how, "learning_rate": 2e-3})


def test_a_killed_run_goes_on_with_its_last_complete_checkpoint(tmp_path: Path) -> None:
    """The state of the trainer is written last, so a checkpoint whose state is missing or torn is not complete."""
    out = tmp_path / "out"
    for step in (2, 10, 12, 14):
        (out / f"checkpoint-{step}").mkdir(parents=True)
        (out / f"checkpoint-{step}" / "model.safetensors").write_bytes(b"")
    torn = out / "checkpoint-12" / "trainer_state.json"
    torn.write_text('{"epoch": 1')
    (out / "runs").mkdir()
    assert checkpoint_to_resume(out, "auto") is None
    for step in (2, 10):
        (out / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    assert checkpoint_to_resume(out, "auto") == out / "checkpoint-10"
    with pytest.raises(OSError, match="is no checkpoint of a run"):
        checkpoint_to_resume(out, torn.parent)
    with pytest.raises(ValueError, match="isn't empty"):
        checkpoint_to_resume(out, None)


@pytest.mark.parametrize("rank", [None, 2])
def test_trained_weights_are_float32_and_begin_as_the_seed_says(rank: int | None, tmp_path: Path) -> None:
    def begun(seed: int, noise: int) -> dict[str, torch.Tensor]:
        model = seeded_model().half()
        torch.manual_seed(noise)
        return prepared(
            model, MaskTrainingArguments(str(tmp_path), use_cpu=True, lora_rank=rank, seed=seed)
        ).state_dict()

    first, again, other = begun(3, 1), begun(3, 2), begun(4, 1)
    assert not any(tensor.dtype == torch.float16 for tensor in first.values())
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    assert all(torch.equal(tensor, other[name]) for name, tensor in first.items()) == (rank is None)


def test_accumulated_batches_are_one_batch(tmp_path: Path) -> None:
    """Also when they hold different numbers of objects."""
    data = rectangle_data([2, 0, 3, 1])
    whole, _ = run(tmp_path / "whole", data, per_device_train_batch_size=4)
    parts, _ = run(tmp_path / "parts", data, per_device_train_batch_size=1, gradient_accumulation_steps=4)
    lean, _ = run(tmp_path / "lean", data, per_device_train_batch_size=4, activation_checkpointing=True)
    assert not same(whole, seeded_model())
    assert largest_difference(whole, parts) < 2e-5
    assert largest_difference(whole, lean) < 2e-5


def test_layers_learn_at_their_rates(tmp_path: Path) -> None:
    model = seeded_model()
    args = MaskTrainingArguments(str(tmp_path), use_cpu=True, learning_rate=1e-3, layer_decay=0.5, weight_decay=0.1)
    trainer = MaskTrainer(model, args, processor_for(model), rectangle_data(COUNTS))
    groups = trainer.create_optimizer().param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert rates[id(model.image_encoder.patch_embed.seq[0].c.weight)] < 1e-3 / 4
    assert rates[id(model.mask_decoder.iou_token.weight)] == 1e-3
    assert {group["weight_decay"] for group in groups} == {0.0, 0.1}
    assert trainer._get_learning_rate() == 1e-3


@pytest.mark.parametrize("encoder", ["vit", "tiny_vit_with_skips"])
def test_cached_embeddings_are_the_frozen_encoder(encoder: str, tmp_path: Path) -> None:
    how: dict[str, Any] = {"encoder": encoder, "frozen_encoder": True, "augment": False, "max_steps": 3}
    running, _ = run(tmp_path / "running", **how)
    options = {
        dtype: RunOptions(embeddings=tmp_path / dtype, embedding_dtype=dtype) for dtype in ("float32", "float16")
    }
    exact, _ = run(tmp_path / "exact", options=options["float32"], **how)
    half, _ = run(tmp_path / "half", options=options["float16"], **how)
    assert largest_difference(running, exact) < 1e-6
    assert 0 < largest_difference(running, half) < 1e-3
    untouched = seeded_model(encoder).image_encoder
    assert same(running.image_encoder, untouched)
    assert not same(running.mask_decoder, seeded_model(encoder).mask_decoder)


def test_adapters_are_saved_alone_and_merged(tmp_path: Path) -> None:
    how: dict[str, Any] = {"lora_rank": 2, "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    adapted, result = run(tmp_path / "adapter", **how)
    saved = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "training.json"} <= saved
    assert "model.safetensors" not in saved
    whole = sum(parameter.numel() for parameter in seeded_model().parameters())
    assert result["trained_parameters"] < 0.7 * whole
    resume = RunOptions(resume=tmp_path / "adapter" / "checkpoint-2", merge=True)
    run(tmp_path / "merged", options=resume, **how)
    merged = AutoModel.from_pretrained(tmp_path / "merged")
    straight = adapted.image_encoder.layers[1].blocks[0].attn.qkv
    expected = straight.base_layer.weight + straight.get_delta_weight("default")
    assert torch.equal(merged.image_encoder.layers[1].blocks[0].attn.qkv.weight, expected)
    assert not torch.equal(expected, seeded_model().image_encoder.layers[1].blocks[0].attn.qkv.weight)
    assert (tmp_path / "merged" / "adapter" / "adapter_model.safetensors").is_file()


def test_stops_early_and_keeps_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: Iterator[float] = iter([0.3, 0.4, 0.6, 0.5, 0.55, 0.9])
    monkeypatch.setattr(MaskTrainer, "_quality", lambda self, data: {"miou": next(found)})
    when = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 5}
    model, result = run(tmp_path / "out", eval_data=rectangle_data([1]), patience=2, logging_steps=1, **when)
    assert result["steps"] == 4
    assert result["best"] == {"miou": 0.6, "step": 2}
    assert result["before"]["miou"] == 0.3
    assert json.loads((tmp_path / "out" / "training.json").read_text())["best"]["step"] == 2
    saved = AutoModel.from_pretrained(tmp_path / "out")
    assert same(saved, AutoModel.from_pretrained(tmp_path / "out" / "checkpoint-2"))
    assert same(saved, model)
    assert not same(saved, AutoModel.from_pretrained(tmp_path / "out" / "checkpoint-4"))
    assert "use_cache" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_quality_is_that_of_the_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that answers every prompt with the truth has an mIoU of 1, with an empty mask of 0."""
    data = rectangle_data([2, 0, 1])
    model = seeded_model()
    args = MaskTrainingArguments(str(tmp_path), use_cpu=True, disable_tqdm=True)
    trainer = MaskTrainer(model, args, processor_for(model), data, data)
    reached = trainer.evaluate()
    assert 0 <= reached["eval_miou"] < 1
    assert reached["eval_miou"] == pytest.approx((reached["eval_iou_click"] + reached["eval_iou_box"]) / 2)

    whole = quality_sums(model, trainer.processor, data)
    monkeypatch.setattr(quality_while_training, "CHUNK", 1)
    encoded: list[Any] = []
    model.image_encoder.register_forward_hook(lambda *call: encoded.append(call))
    assert torch.allclose(quality_sums(model, trainer.processor, data), whole)
    assert len(encoded) == 2
    monkeypatch.undo()

    truths = iter([data[0].masks, data[2].masks])
    answer = lambda masks, *_: [torch.from_numpy(next(truths))[:, None].repeat(1, 2, 1, 1)]  # noqa: E731
    monkeypatch.setattr(trainer.processor, "post_process_masks", answer)
    assert trainer.evaluate()["eval_miou"] == 1


def test_bfloat16_learns_about_the_same(tmp_path: Path) -> None:
    exact, _ = run(tmp_path / "float32")
    rough, _ = run(tmp_path / "bfloat16", bf16=True)
    assert rough.dtype == torch.float32
    assert 0 < largest_difference(exact, rough) < 5e-3


def test_infinite_loss_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned = lambda self, batch: torch.tensor(float("nan"), requires_grad=True)  # noqa: E731
    monkeypatch.setattr(PromptedLoss, "forward", poisoned)
    with pytest.raises(ValueError, match=r"the loss is nan in step 1, rows \[\d, \d\]"):
        run(tmp_path / "out")


def test_empty_stream_is_refused() -> None:
    processor = processor_for(tiny_model("tiny_vit"))
    stream = PromptedStream(open_masks(rectangle_rows([1]).to_iterable_dataset()), processor, PromptPlan())
    stream.data._rows = stream.data._rows.take(0)
    with pytest.raises(ValueError, match="the stream has no rows"):
        next(iter(stream))


@pytest.mark.parametrize(
    ("arguments", "options", "counts", "message"),
    [
        ({"frozen_encoder": True, "lora_rank": 2}, {}, [1], "choose --freeze-encoder or --lora"),
        ({}, {"embeddings": Path("e")}, [1], "need a frozen encoder"),
        ({"frozen_encoder": True}, {"embeddings": Path("e")}, [1], "add --no-augment"),
        ({}, {"merge": True}, [1], "nothing to merge"),
        ({"patience": 2}, {}, [1], "needs data to measure the mIoU on"),
        ({}, {}, [0, 0], "none of 2 rows has an object"),
        ({"min_area": 0.9}, {}, [1], "none of 1 rows has an object that covers 90.00%"),
        ({"rounds": 0}, {}, [1], "rounds=0 must be 1 or more"),
        ({"box_share": 2.0}, {}, [1], r"box_share=2.0 must be in 0\.\.1"),
    ],
)
def test_refusals(arguments: Any, options: Any, counts: list[int], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "out", rectangle_data(counts), options=RunOptions(**options), **arguments)
    assert not (tmp_path / "out").exists()


def test_refuses_a_fused_model_and_a_full_folder(tmp_path: Path) -> None:
    model = seeded_model().fuse()
    args = MaskTrainingArguments(str(tmp_path / "out"), use_cpu=True)
    with pytest.raises(ValueError, match="fused for inference"):
        train_masks(model, processor_for(model), rectangle_data([1]), args)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="isn't empty: name a new folder, or go on with its run with --resume auto"):
        run(tmp_path)
    with pytest.raises(ValueError, match="has no checkpoint to resume from, but other files"):
        run(tmp_path, options=RunOptions(resume="auto"))
    with pytest.raises(OSError, match="is no checkpoint of a run"):
        run(tmp_path / "out", options=RunOptions(resume=tmp_path))
