"""The command `benchmark`: that what is compared is the same, that what is timed adds up, and the reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from sam_variants.hub_scripts import benchmark_compare, benchmark_memory, benchmark_track, cli
from sam_variants.hub_scripts.benchmark_compare import REST, Comparison, Stopwatch, compare
from sam_variants.hub_scripts.benchmark_memory import held_bytes, measure_memory, memory_on_the_way
from sam_variants.hub_scripts.benchmark_settings import TrackSettings
from sam_variants.hub_scripts.benchmark_tables import track_tables
from sam_variants.hub_scripts.benchmark_track import (
    DISTURBED,
    HALF_SIZE,
    ONE_BY_ONE,
    ONE_OBJECT,
    OURS,
    THEIRS,
    comparison_row,
    measure_small,
)
from sam_variants.hub_scripts.benchmark_trackers import (
    OUR_PARTS,
    OurTracker,
    TheirTracker,
    at_size,
    preset_config,
    random_frames,
    random_model,
    small_config,
    transformers_model,
)


@pytest.fixture(scope="module")
def small_model() -> Any:
    return random_model(small_config())


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(cli.app, ["benchmark", *map(str, arguments)], prog_name="sam-variants")


@torch.no_grad()
def test_both_track_the_same_objects(small_model: Any) -> None:
    """Logits agree from the prompts on, at other places for other objects, and objects stay visible."""
    ours, theirs = OurTracker(small_model, 2), TheirTracker(transformers_model(small_model), 2)
    stream = random_frames(ours.side, "cpu")
    for number in range(4):
        frame = next(stream)
        logits, expected = ours.step(frame), theirs.step(frame)
        assert logits.shape == (2, 32, 32)
        assert (logits - expected).abs().max() < (1e-4 if number == 0 else 1e-2)
        assert 0.1 < logits.std() < 100
        assert (logits[0] - logits[1]).abs().max() > 0.03


def test_no_weight_is_idle(small_model: Any) -> None:
    for name, parameter in small_model.named_parameters():
        assert parameter.numel() == 1 or parameter.std() > 0.01, name


@torch.no_grad()
def test_batched_objects_are_those_of_one_pass_each(small_model: Any) -> None:
    together, alone = OurTracker(small_model, 3), OurTracker(small_model, 3, objects_per_pass=1)
    stream = random_frames(together.side, "cpu")
    for _ in range(3):
        frame = next(stream)
        assert torch.allclose(together.step(frame), alone.step(frame), atol=1e-3)


def test_another_size_keeps_the_weights(small_model: Any) -> None:
    config = small_config()
    config.image_size = config.vision_config.image_size = 64
    half = at_size(small_model, config)
    assert all(torch.equal(one, other) for one, other in zip(half.parameters(), small_model.parameters(), strict=True))
    with torch.no_grad():
        assert OurTracker(half, 1).step(next(random_frames(64, "cpu"))).shape == (1, 16, 16)


def test_presets_at_other_sizes() -> None:
    config = preset_config("sam2.1-hiera-small", 512)
    assert (config.image_size, config.vision_config.image_size) == (512, 512)
    assert preset_config("sam2.1-hiera-small").image_size == 1024
    with pytest.raises(ValueError, match=r"preset='mobile-sam' .* choose one of sam2\.1-hiera-tiny"):
        preset_config("mobile-sam")
    with pytest.raises(ValueError, match=r"image_size=500 must be a multiple of 16"):
        preset_config("sam2.1-hiera-tiny", 500)


class Clockwork:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class SlowPart(nn.Module):
    """A module that takes a while."""

    def __init__(self, clock: Clockwork, seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        self.clock.now += self.seconds
        return x * self.weight


class ScriptedTracker:
    """Calls its encoder once and its decoder twice per frame, and adds an error to what comes out."""

    parts = {"encoder": "encoder", "decoder": "decoder"}
    session = None
    side = 8

    def __init__(self, clock: Clockwork, encoder: float, decoder: float, rest: float, error: float = 0.0) -> None:
        self.model: Any = nn.ModuleDict({"encoder": SlowPart(clock, encoder), "decoder": SlowPart(clock, decoder)})
        self.clock, self.rest, self.error = clock, rest, error

    def step(self, pixel_values: Tensor) -> Tensor:
        self.clock.now += self.rest
        return self.model.decoder(self.model.decoder(self.model.encoder(pixel_values))) + self.error


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clockwork:
    clock = Clockwork()
    monkeypatch.setattr(benchmark_compare, "time", clock)
    return clock


def test_stopwatch_tells_the_parts(clock: Clockwork) -> None:
    tracker = ScriptedTracker(clock, 3.0, 0.5, 0.25)
    watch = Stopwatch(tracker)
    for seconds in (3.0, 100.0, 2.0, 4.0):
        tracker.model.encoder.seconds = seconds
        watch.step(torch.zeros(1))
    assert watch.seconds == [4.25, 101.25, 3.25, 5.25]
    assert watch.medians(3) == (5.25, {"encoder": 4.0, "decoder": 1.0, REST: 0.25})
    watch.close()
    assert not tracker.model.encoder._forward_hooks


def test_compare_leaves_out_the_filling_frames(clock: Clockwork) -> None:
    first, second = ScriptedTracker(clock, 1.0, 0.5, 0.0), ScriptedTracker(clock, 2.0, 0.5, 0.0, error=0.5)
    progress: list[float] = []
    steps: list[str] = []
    original = {"first": first.step, "second": second.step}
    for name, tracker in (("first", first), ("second", second)):
        # A frame of the filling is slower and wrong, and must not show.
        def step(pixels: Tensor, name: str = name) -> Tensor:
            steps.append(name)
            is_filling = len(steps) <= 4
            clock.now += 50.0 * is_filling
            return original[name](pixels) + 9.0 * is_filling * (name == "second")

        tracker.step = step  # type: ignore[method-assign]
    compared = compare({"first": first, "second": second}, 2, 3, progress.append)
    assert steps == ["first", "second", "second", "first"] * 2 + ["first", "second"]
    assert compared.seconds == {"first": 2.0, "second": 3.0}
    assert compared.parts["second"] == {"encoder": 2.0, "decoder": 1.0, REST: 0.0}
    assert compared.differences == {"second": pytest.approx(0.5)}
    assert 0.5 < compared.scale < 2
    assert sum(progress) == pytest.approx(1)


def test_row_of_a_comparison() -> None:
    seconds = {OURS: 2.0, ONE_BY_ONE: 5.0, ONE_OBJECT: 1.0, THEIRS: 3.0, HALF_SIZE: 0.5}
    compared = Comparison(seconds, {ONE_OBJECT: {"encoder": 0.25}}, {THEIRS: 1e-4}, 2.0)
    row = comparison_row(compared, 4)
    assert row["times_as_fast"] == {THEIRS: 1.5, ONE_BY_ONE: 2.5}
    assert row["limit_seconds"] == 0.25 + 4 * 0.75
    assert row["half_size_times_as_fast"] == 4.0
    alone = comparison_row(Comparison({OURS: 2.0}, {}, {}, 2.0), 1)
    assert alone["times_as_fast"] == {}
    assert not {"limit_seconds", "half_size_times_as_fast"} & set(alone)


def test_small_rows_hold_every_tracker(small_model: Any) -> None:
    progress: list[float] = []
    row = measure_small(small_model, TrackSettings(small_frames=1), 1, progress.append)
    assert set(row["seconds"]) == {OURS, DISTURBED, THEIRS}
    assert row["differences"][THEIRS] < 0.1
    assert row["differences"][DISTURBED] > 0
    assert set(row["parts"][OURS]) == set(row["parts"][THEIRS]) == {*OUR_PARTS, REST}
    assert all(row["parts"][name][part] > 0 for name in (OURS, THEIRS) for part in OUR_PARTS)
    row = measure_small(small_model, TrackSettings(small_frames=1, with_transformers=False), 2, progress.append)
    assert set(row["seconds"]) == {OURS, ONE_BY_ONE, ONE_OBJECT}
    assert row["limit_seconds"] > row["seconds"][ONE_OBJECT]


def test_held_bytes_counts_a_storage_once() -> None:
    shared = torch.zeros(100)
    module = nn.Linear(10, 10)

    class Holder:
        def __init__(self) -> None:
            self.tensors = {"a": shared, "b": [shared[:5], shared.view(10, 10)]}
            self.array = np.zeros(50, np.float32)
            self.module, self.itself = module, self
            self.outside = {"big": torch.zeros(1000)}

    holder = Holder()
    assert held_bytes(holder, holder.outside) == 400 + 200
    assert held_bytes(holder) == 400 + 200 + 4000


def test_our_memory_is_flat_and_theirs_grows() -> None:
    """With one object, after 17 frames (when everything that is looked at is there) and 22."""
    held = {
        name: [line["held_bytes"] for line in memory_on_the_way(name, [17, 22])] for name in benchmark_memory.TRACKERS
    }
    assert held[OURS][0] == held[OURS][1] > 0
    # Of every frame transformers keeps the pixels, among others.
    assert held[THEIRS][1] - held[THEIRS][0] > 5 * 4 * 3 * 128 * 128


@pytest.mark.slow
def test_memory_in_a_process_of_its_own() -> None:
    (line,) = measure_memory(OURS, [2], 1, "cpu", 1)
    assert line["frame"] == 2
    assert line["held_bytes"] == next(memory_on_the_way(OURS, [2]))["held_bytes"]
    assert line["resident_bytes"] is None or line["resident_bytes"] > 10**8


def test_lines_and_failure_of_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the process prints comes through, and if it fails, its last words do."""
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\necho "{\\"frame\\": 2}"\necho first words >&2\necho last words >&2\nexit 3\n')
    program.chmod(0o755)
    monkeypatch.setattr(benchmark_memory.sys, "executable", str(program))
    lines = measure_memory(OURS, [2], 1, "cpu", 1)
    assert next(lines) == {"frame": 2}
    with pytest.raises(ValueError, match="the memory of ours failed: last words"):
        next(lines)


def fake_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let everything that takes time be over at once."""

    def compared(trackers: Any, before: int, measured: int, advance: Any) -> Comparison:
        advance(1.0)
        seconds = {name: 0.1 * number for number, name in enumerate(trackers, start=2)}
        parts = {name: dict.fromkeys((*OUR_PARTS, REST), 0.01) for name in trackers}
        return Comparison(seconds, parts, dict.fromkeys(list(trackers)[1:], 1e-5), 2.0)

    def memory(name: str, frames: Any, *_: Any) -> Any:
        growth = 1 if name == THEIRS else 0
        return ({"frame": n, "held_bytes": 10**6 + growth * n, "resident_bytes": None} for n in frames)

    monkeypatch.setattr(benchmark_track, "compare", compared)
    monkeypatch.setattr(benchmark_track, "measure_memory", memory)
    monkeypatch.setattr(benchmark_track, "preset_config", lambda preset, image_size=None: small_config())


def test_command_prints_json_and_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_report(monkeypatch)
    before = torch.get_num_threads()
    result = run("track", "--objects", "4,1", "--clips", 0, "--json", "--threads", 1)
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["benchmark"] == "track"
    assert [row["objects"] for row in report["small"]["rows"]] == [1, 4]
    assert [line["frame"] for line in report["memory"][THEIRS]] == [20, 100, 500]
    assert report["preset"]["rows"][0]["half_size_times_as_fast"] == pytest.approx(0.5)
    assert report["half_size_j"] == {"skipped": "not asked for"}
    assert torch.get_num_threads() == before
    printed = run("track", "--clips", 0, "--threads", 1)
    assert printed.exit_code == 0, printed.stderr
    for text in ("1.50× yes", "tiny dimensions", "transformers, held", "half the input size", "limit"):
        assert text in printed.stdout, text


def test_command_alone_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_report(monkeypatch)
    result = run("track", "--skip-transformers", "--quick", "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert list(report["memory"]) == [OURS]
    assert report["settings"]["memory_frames"] == [20, 100]
    assert THEIRS not in report["small"]["rows"][0]["seconds"]
    assert HALF_SIZE not in report["preset"]["rows"][0]["seconds"]
    assert len(track_tables(report)) == 5


def test_j_at_half_size(monkeypatch: pytest.MonkeyPatch, small_model: Any, tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    small_model.save_pretrained(tmp_path)
    monkeypatch.setattr(benchmark_track, "CLIP_FRAMES", 2)
    monkeypatch.setattr(benchmark_track, "CLIP_SIZE", 64)
    settings = TrackSettings(model=str(tmp_path), clips=1)
    checkpoint, _ = benchmark_track.checkpoint_for_j(settings)
    found = benchmark_track.measure_half_size_j(str(checkpoint), settings)
    assert found["image_sizes"] == [128, 64]
    assert set(found["results"]) == {"128", "64"}
    assert 0 <= found["results"]["64"]["j"] <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "No such command 'nothing'"),
        (["track", "--objects", "0,1"], "'0,1' must be whole numbers from 1 on"),
        (["track", "--memory-frames", "ten"], "'ten' must be whole numbers from 1 on"),
        (["track", "--device", "abacus"], "'abacus' can't be used here"),
        (["track", "--preset", "mobile-sam"], "preset='mobile-sam' is no model that tracks"),
        (["track", "--image-size", "100"], "image_size=100 must be a multiple of 16"),
    ],
)
def test_wrong_calls(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code != 0
    (line,) = result.stderr.splitlines()
    assert message in line
