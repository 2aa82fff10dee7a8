"""Training to track: what is asked of clips, the loss, the trainer, and runs that go on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_examples import moving_squares, write_clip, write_clips
from safetensors.torch import load_file
from tiny import tiny_model, tiny_video_model
from transformers import AutoModel, AutoProcessor, TrainerCallback

from sam_variants.losses import LossWeights
from sam_variants.modeling_sam_variants_video import SamVariantsVideoModel
from sam_variants.processing.processor_for import processor_for
from sam_variants.training.clip_batches import ClipPlan, PromptedClips, collate_clips
from sam_variants.training.clip_datasets import open_clips
from sam_variants.training.clip_loss import ClipLoss, ClipPrompts, TrackingLoss
from sam_variants.training.clip_quality import clip_quality, mean_quality, track_clip
from sam_variants.training.clip_trainer import TRAINED_PARTS, ClipTrainingArguments, train_clips
from sam_variants.training.mask_batches import EpochRow
from sam_variants.training.mask_training import RunOptions
from sam_variants.training.masked_clip import MaskedClip

PROCESSOR = processor_for(tiny_video_model())
CELL = 4


def examples(clips: list[MaskedClip], frames: int = 3, **plan: Any) -> PromptedClips:
    return PromptedClips(open_clips(clips, frames=frames), PROCESSOR, ClipPlan(**plan))


def arguments(out: Path, **changes: Any) -> ClipTrainingArguments:
    usual = {"max_steps": 2, "learning_rate": 1e-3, "warmup_steps": 0, "save_strategy": "no", "disable_tqdm": True}
    return ClipTrainingArguments(output_dir=str(out), use_cpu=True, **(usual | changes))


def test_an_example_fits_the_model_and_prompts_its_objects() -> None:
    example = examples([moving_squares()], num_objects=2)[EpochRow(0, 0)]
    assert example["pixel_values"].shape == (3, 3, 64, 64)
    assert example["targets"].shape == (3, 2, 16, 16)
    assert example["targets"][:, :, 12:].sum() == 0  # the padding below a frame of 40×56
    areas = example["targets"].sum(dim=(-1, -2))[0] * CELL**2
    assert areas.tolist() == pytest.approx([132 * (64 / 56) ** 2] * 2, rel=0.05)
    for target, (x, y), box in zip(example["targets"][0], example["clicks"], example["boxes"], strict=True):
        assert target[int((y + 0.5) // CELL), int((x + 0.5) // CELL)] > 0
        assert box[0] < x < box[2]
        assert box[1] < y < box[3]


def test_examples_are_a_function_of_seed_epoch_and_row() -> None:
    clips = [moving_squares(8, seed=seed) for seed in range(2)]
    first, again, other = (examples(clips, seed=seed) for seed in (1, 1, 2))
    for place in (EpochRow(1, 1), EpochRow(0, 0)):
        for name, value in first[place].items():
            same = again[place][name]
            assert torch.equal(value, same) if isinstance(value, torch.Tensor) else value == same, name
    assert not torch.equal(first[EpochRow(0, 0)]["clicks"], first[EpochRow(1, 0)]["clicks"])
    assert not torch.equal(first[EpochRow(0, 0)]["clicks"], other[EpochRow(0, 0)]["clicks"])


def test_corrections_follow_the_plan_and_the_annotations() -> None:
    clip = moving_squares(6)
    clip.annotated[[1, 3, 4]] = False
    always = {"refine_share": 1.0, "correct_share": 1.0, "corrected_frames": 3, "correction_clicks": 2}
    rows = [EpochRow(epoch, 0) for epoch in range(40)]
    drawn = [examples([clip], 6, box_share=0.3, mask_share=0.3, reverse_share=0.0, **always)[row] for row in rows]
    assert {example["kind"] for example in drawn} == {"click", "box", "mask"}
    for example in drawn:
        counts, known = np.array(example["corrections"]), np.array(example["annotated"])
        assert counts[~known].sum() == 0
        assert counts.max() <= 2
        assert (counts[0] > 0) == (example["kind"] == "click")
        assert (counts[1:] > 0).any() or known[1:].sum() == 0
        assert example["draws"].shape == (counts.sum(), 2, 3)
    never = {"refine_share": 0.0, "correct_share": 0.0, "box_share": 0.0, "mask_share": 0.0}
    assert all(sum(examples([clip], 6, **never)[row]["corrections"]) == 0 for row in rows[:5])


def test_a_mask_is_not_given_where_nothing_could_be_learnt_from_it() -> None:
    clip = moving_squares(3)
    clip.annotated[1:] = False
    example = examples([clip], mask_share=1.0, box_share=0.0, reverse_share=0.0)[EpochRow(0, 0)]
    assert example["kind"] == "click"
    loss = ClipLoss(
        tiny_video_model(),
        example["pixel_values"],
        example["targets"],
        ClipPrompts("mask", example["clicks"], example["boxes"], [0, 0, 0]),
        LossWeights(),
        example["annotated"],
    )
    with pytest.raises(ValueError, match="the clip gives no loss"):
        loss.run()


def test_only_annotated_frames_have_a_loss() -> None:
    clip = moving_squares(4)
    clip.annotated[[1, 3]] = False
    plan = {"correct_share": 0.0, "refine_share": 0.0, "box_share": 1.0, "mask_share": 0.0, "reverse_share": 0.0}
    example = examples([clip], 4, **plan)[EpochRow(0, 0)]
    prompts = ClipPrompts("box", example["clicks"], example["boxes"], example["corrections"])
    inputs = (example["pixel_values"], example["targets"], prompts, LossWeights())
    model = tiny_video_model()
    sparse, dense = ClipLoss(model, *inputs, example["annotated"]), ClipLoss(model, *inputs)
    sparse.run()
    dense.run()
    assert (len(sparse.losses), len(dense.losses)) == (2, 4)
    assert sparse.losses[1].item() == dense.losses[2].item()  # the frames between were tracked all the same


def test_the_loss_sums_over_objects_and_knows_empty_clips() -> None:
    empty = moving_squares()
    empty.masks[:] = False
    drawn = examples([moving_squares(), moving_squares(num_objects=1, seed=5), empty], reverse_share=0.0)
    batch = collate_clips([drawn[EpochRow(0, row)] for row in range(3)])
    assert batch["is_object"].tolist() == [[True, True], [True, False], [False, False]]
    module = TrackingLoss(tiny_video_model()).eval()
    whole = module(batch).item()
    parts = [module(collate_clips([drawn[EpochRow(0, row)]])) for row in range(3)]
    assert whole == pytest.approx(sum(part.item() for part in parts), rel=1e-5)
    assert parts[2].item() == 0
    parts[2].backward()
    assert all(parameter.grad is not None for parameter in module.model.mask_decoder.parameters())


@pytest.mark.parametrize("parts", list(TRAINED_PARTS))
def test_what_is_trained_changes_and_nothing_else(parts: str, tmp_path: Path) -> None:
    model = tiny_video_model("hiera", memory_dtype="bfloat16")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    clips = open_clips([moving_squares(seed=seed) for seed in range(2)], frames=3)
    changes = {"parts": parts, "activation_checkpointing": parts != "memory", "bf16": parts == "all"}
    result = train_clips(model, processor_for(model), clips, arguments(tmp_path / "out", **changes))
    parameters = dict(model.named_parameters())
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed <= {name for name in parameters if name.startswith(TRAINED_PARTS[parts])}
    touched = {name.partition(".")[0] for name in changed}
    assert {"memory_attention", "memory_encoder", "obj_ptr_proj"} <= touched
    assert ("mask_decoder" in touched) == (parts != "memory")
    assert ("image_encoder" in touched) == (parts == "all")
    assert result["trained_parameters"] == sum(value.numel() for value in parameters.values() if value.requires_grad)


def test_batch_norms_keep_their_statistics(tmp_path: Path) -> None:
    model = tiny_video_model("tiny_vit_with_skips")
    before = {name: value.clone() for name, value in model.named_buffers()}
    clips = open_clips([moving_squares()], frames=3)
    train_clips(model, processor_for(model), clips, arguments(tmp_path / "out", parts="all", max_steps=1))
    assert any("running_mean" in name for name in before)
    for name, value in model.named_buffers():
        assert torch.equal(value, before[name]), name


class Stop(TrainerCallback):
    """Ends a run as if it had been interrupted behind a checkpoint."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


def test_a_resumed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    """Dropout in the memory attention, corrections, accumulation and a worker: all go on where they stopped."""
    clips = open_clips(write_clips(tmp_path / "data", 5), frames=2, stride=range(1, 3))
    changes = {
        "max_steps": 4,
        "save_strategy": "steps",
        "save_steps": 3,  # in the second epoch
        "gradient_accumulation_steps": 2,
        "correct_share": 1.0,
        "dataloader_num_workers": 1,
    }
    memory = {"d_model": 32, "kv_in_dim": 16, "num_layers": 2, "dim_feedforward": 64, "dropout": 0.1}

    def run(
        out: str, resume: str | None = None, callbacks: tuple[TrainerCallback, ...] = ()
    ) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = tiny_video_model(memory_attention_config=memory)
        args = arguments(tmp_path / out, **changes)
        train_clips(model, PROCESSOR, clips, args, options=RunOptions(resume), callbacks=callbacks)
        return load_file(tmp_path / out / "model.safetensors")

    straight = run("straight")
    stopped = run("stopped", callbacks=(Stop(3),))
    resumed = run("stopped", resume="auto")
    assert any(not torch.equal(stopped[name], value) for name, value in straight.items())
    assert all(torch.equal(resumed[name], value) for name, value in straight.items())
    other = arguments(tmp_path / "stopped", **(changes | {"seed": 1}))
    with pytest.raises(ValueError, match=r"seed was 0, is 1"):
        train_clips(tiny_video_model(), PROCESSOR, clips, other, options=RunOptions("auto"))


def test_a_run_is_measured_and_leaves_a_complete_checkpoint(tmp_path: Path) -> None:
    clips = open_clips(write_clips(tmp_path / "data", 2), frames=3)
    model = tiny_video_model()
    args = arguments(
        tmp_path / "out", eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1, eval_frames=4
    )
    result = train_clips(model, PROCESSOR, clips, args, eval_clips=clips)
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert [entry["step"] for entry in record["evaluations"]] == [0, 1, 2]
    assert record["before"] == record["evaluations"][0]
    assert record["best"]["j_and_f"] == max(entry["j_and_f"] for entry in record["evaluations"][1:])
    assert record["best"] == result["best"]
    assert "2 clips of 6 to 6 frames" in record["data"]
    loaded = AutoModel.from_pretrained(tmp_path / "out")
    assert isinstance(loaded, SamVariantsVideoModel)
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    qualities = [one for row in range(2) for one in clip_quality(loaded, processor, clips.whole(row, 4))]
    assert mean_quality(qualities)["j_and_f"] == pytest.approx(record["best"]["j_and_f"], abs=1e-6)


def test_it_learns(tmp_path: Path) -> None:
    """The loss on two clips falls by a good part."""
    clips = open_clips([moving_squares(seed=seed) for seed in range(2)], frames=3)
    losses: list[float] = []

    class Listen(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
            losses.extend([logs["loss"]] if "loss" in logs else [])

    args = arguments(tmp_path / "out", max_steps=8, logging_steps=2, learning_rate=1e-2, per_device_train_batch_size=2)
    train_clips(tiny_video_model(), PROCESSOR, clips, args, callbacks=[Listen()])
    assert losses[-1] < 0.8 * losses[0]


class Answers:
    """Stands for a model: a session that finds what a function of frame and object says."""

    def __init__(self, clip: MaskedClip, delay: int) -> None:
        self.clip, self.delay = clip, delay
        self.asked: list[tuple[int, dict[str, Any]]] = []

    def start_session(self, processor: Any) -> Answers:
        self.object_ids: list[int] = []
        self.index = -1
        return self

    def add_object(self, key: int, **arguments: Any) -> None:
        self.object_ids.append(key)
        self.asked.append((key, arguments))

    def step(self, frame: np.ndarray) -> Any:
        self.index += 1
        number = max(0, self.index - self.delay)
        self.data = torch.from_numpy(np.stack([self.clip.masks[key - 1, number] for key in self.object_ids]))
        return self

    def close(self) -> None:
        self.object_ids = []


def test_quality_is_that_of_annotated_frames_behind_the_prompt() -> None:
    clip = moving_squares(5)
    assert clip_quality(Answers(clip, 0), None, clip) == [(1.0, 1.0)] * 2
    # a square of 12×11 that is one pixel behind: 11 of 13 columns agree
    behind = clip_quality(Answers(clip, 1), None, clip)
    assert [one.j for one in behind] == pytest.approx([11 / 13] * 2)
    clip.annotated[2:] = False
    assert [one.j for one in clip_quality(Answers(clip, 1), None, clip)] == pytest.approx([11 / 13] * 2)
    clip.annotated[1:] = False
    assert clip_quality(Answers(clip, 0), None, clip) == []
    with pytest.raises(ValueError, match="nothing to measure"):
        mean_quality([])


@pytest.mark.parametrize("prompt", ["click", "box", "mask"])
def test_objects_are_prompted_where_they_first_show(prompt: str) -> None:
    clip = moving_squares(5)
    clip.masks[0, :3] = False
    answers = Answers(clip, 0)
    tracked = track_clip(answers, None, clip, prompt)
    assert {key: len(masks) for key, masks in tracked.items()} == {1: 2, 2: 5}
    for key, given in answers.asked:
        truth = clip.masks[key - 1, given["frame"]]
        assert given["frame"] == {1: 3, 2: 0}[key]
        if prompt == "click":
            ((x, y),) = given["points"]
            assert truth[y, x]
        elif prompt == "box":
            x1, y1, x2, y2 = given["boxes"]
            assert truth[y1:y2, x1:x2].all()
            assert (x2 - x1) * (y2 - y1) == truth.sum()
        else:
            np.testing.assert_array_equal(given["mask"], truth)
    with pytest.raises(ValueError, match="prompt='word' is none of"):
        track_clip(answers, None, clip, "word")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"parts": "encoder"}, r"parts='encoder' is none of \['all', 'decoder', 'memory'\]"),
        ({"eval_prompt": "word"}, "eval_prompt='word' is none of"),
        ({"lora_rank": 4}, "lora_rank=4 is about training on images"),
        ({"rounds": 5}, "rounds=5 is about training on images"),
        ({"mask_share": 0.9}, "are more than 1 together"),
        ({"correct_share": 2.0}, r"correct_share=2.0 must be in 0\.\.1"),
        ({"eval_frames": 1}, "eval_frames=1 must be 2 or more"),
    ],
)
def test_bad_arguments(changes: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=problem):
        arguments(tmp_path, **changes)


def test_what_can_not_be_trained(tmp_path: Path) -> None:
    clips = open_clips([moving_squares()], frames=3)
    image_model: Any = tiny_model("tiny_vit")
    with pytest.raises(TypeError, match="SamVariantsModel has no memory"):
        train_clips(image_model, PROCESSOR, clips, arguments(tmp_path / "out"))
    with pytest.raises(ValueError, match="none of 1 clips has an object that covers 90"):
        train_clips(tiny_video_model(), PROCESSOR, clips, arguments(tmp_path / "out", min_area=0.9))
    with pytest.raises(ValueError, match="stopping early needs clips"):
        train_clips(tiny_video_model(), PROCESSOR, clips, arguments(tmp_path / "out", patience=2))
    with pytest.raises(ValueError, match="are for training on images"):
        train_clips(tiny_video_model(), PROCESSOR, clips, arguments(tmp_path / "o"), options=RunOptions(merge=True))
    with pytest.raises(ValueError, match="fused for inference"):
        train_clips(tiny_video_model().fuse(), PROCESSOR, clips, arguments(tmp_path / "out"))


def test_a_bad_frame_ends_the_run_with_its_name(tmp_path: Path) -> None:
    write_clip(tmp_path / "data", moving_squares(2))
    (tmp_path / "data" / "JPEGImages" / "squares" / "00001.png").write_bytes(b"no picture")
    clips = open_clips(tmp_path / "data", frames=2)
    with pytest.raises(ValueError, match=r"data: clip 'squares', frame 1 \(00001\.png"):
        train_clips(tiny_video_model(), PROCESSOR, clips, arguments(tmp_path / "out", min_area=0.001))


TWO_PROCESSES = """
import sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from test_clip_training import shared_run
shared_run({folder!r}, {out!r}, 1)
"""


def shared_run(folder: str, out: str, batch: int) -> None:
    """One of the runs that `test_two_processes_do_what_one_does` compares."""
    torch.manual_seed(0)
    clips = open_clips(folder, frames=2)
    # Adam would make much of rounding where gradients are next to nothing.
    args = arguments(
        Path(out), optim="sgd", max_steps=2, per_device_train_batch_size=batch, eval_strategy="steps", eval_steps=2
    )
    args.save_strategy, args.save_steps = "steps", 2  # type: ignore[assignment]
    train_clips(tiny_video_model(), PROCESSOR, clips, args, eval_clips=clips)


def test_two_processes_do_what_one_does(tmp_path: Path) -> None:
    folder, out, script = str(tmp_path / "data"), str(tmp_path / "two"), tmp_path / "run.py"
    write_clips(tmp_path / "data", 4)
    script.write_text(TWO_PROCESSES.format(tests=str(Path(__file__).parent), folder=folder, out=out))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    with subprocess.Popen(launch, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as launched:
        shared_run(folder, str(tmp_path / "one"), 2)
        told = launched.communicate()[0]
    assert launched.returncode == 0, told[-3000:]
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(
            two[name], value, rtol=1e-3, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    records = [json.loads((tmp_path / name / "training.json").read_text()) for name in ("one", "two")]
    assert records[0]["best"]["j"] == pytest.approx(records[1]["best"]["j"], abs=1e-2)
