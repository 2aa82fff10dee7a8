"""The commands `benchmark encode` and `decode`: that the same is compared, in turn, and what is reported."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from sam_variants.hub_scripts import (
    benchmark_decode,
    benchmark_encode,
    benchmark_interleaved,
    cli,
)
from sam_variants.hub_scripts.benchmark_decode import OURS, PLAIN, measure_decode, plain_decoder
from sam_variants.hub_scripts.benchmark_decode_tables import decode_tables
from sam_variants.hub_scripts.benchmark_encode import (
    BFLOAT16,
    COMPILED,
    OFFICIAL,
    THEIRS,
    measure_encode,
)
from sam_variants.hub_scripts.benchmark_encode_tables import encode_tables
from sam_variants.hub_scripts.benchmark_interleaved import measure_in_turn, relative_difference
from sam_variants.hub_scripts.benchmark_models import randomised, sized_config
from sam_variants.hub_scripts.benchmark_official_form import OfficialTinyViT
from sam_variants.hub_scripts.benchmark_settings import DecodeSettings, EncodeSettings
from sam_variants.hub_scripts.benchmark_trackers import random_model, small_config
from tests.tiny import tiny_model

# One model of each kind that is compared in another way.
MODELS = {
    "mobile-sam": lambda: tiny_model("tiny_vit"),
    "sam-vit-base": lambda: tiny_model("vit"),
    "sam2.1-hiera-tiny": lambda: random_model(small_config()),
    "embedded": lambda: tiny_model("tiny_vit_with_skips"),
}


@pytest.fixture
def tiny_models(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (benchmark_encode, benchmark_decode):
        monkeypatch.setattr(module, "benchmark_model", lambda name, image_size, device: MODELS[name]())


class Clock:
    """Time that passes only when it is told to."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


def test_contenders_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = Clock(), []
    monkeypatch.setattr(benchmark_interleaved, "time", clock)
    answers = {"a": torch.tensor([0.0, 2.0]), "b": torch.tensor([0.0, 5.0])}
    durations = {"a": iter([9.0, 1.0, 3.0, 2.0]), "b": iter([4.0, 4.0, 4.0, 4.0])}

    def work(name: str) -> Any:
        def answer() -> Any:
            calls.append(name)
            clock.now += next(durations[name])
            return [answers[name]]

        return answer

    progress: list[float] = []
    found = measure_in_turn({name: work(name) for name in "ab"}, "a", 3, "cpu", progress.append)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert sum(progress) == pytest.approx(1)
    assert (found["a"]["seconds"], found["b"]["seconds"]) == (2.0, 4.0)
    assert (found["a"]["warm_up_seconds"], found["b"]["warm_up_seconds"]) == (7.0, 0.0)
    assert (found["a"]["difference"], found["b"]["difference"]) == (0.0, pytest.approx(3 / 2**0.5))
    assert benchmark_interleaved.times_as_fast(found, "a", "b") == 2.0
    assert benchmark_interleaved.times_as_fast(found, "a", "c") is None


def test_differences_are_measured_by_the_spread_of_each_tensor() -> None:
    expected = [torch.tensor([0.0, 1.0]), torch.tensor([0.0, 100.0])]
    found = [torch.tensor([0.0, 1.5]), torch.tensor([1.0, 100.0])]
    assert relative_difference(found, expected) == pytest.approx(0.5 / 0.5**0.5)


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (80, 48)])
@pytest.mark.parametrize("name", ["tiny_vit", "tiny_vit_with_skips"])
def test_the_official_form_computes_the_same(name: str, size: tuple[int, int]) -> None:
    encoder: Any = tiny_model(name).image_encoder
    pixel_values = torch.randn(2, 3, *size)
    official = OfficialTinyViT(encoder)
    torch.testing.assert_close(official(pixel_values), encoder(pixel_values).last_hidden_state, atol=2e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="fused encoder"):
        OfficialTinyViT(encoder.fuse())


def test_encoders_agree_and_are_reported(tiny_models: None, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(torch, "compile", lambda module: compiled.append(module) or module)
    progress: list[float] = []
    report = measure_encode(EncodeSettings(repeats=1, compiled=True), progress.append)
    assert sum(progress) == pytest.approx(1)
    assert [module._is_fused for module in compiled] == [True] * 4
    for name, section in json.loads(json.dumps(report["models"])).items():
        baseline = OFFICIAL if name in ("mobile-sam", "embedded") else THEIRS
        assert section["reference"] == baseline
        assert set(section["contenders"]) == {baseline, OURS, COMPILED, BFLOAT16}
        assert section["contenders"][OURS]["difference"] < 1e-4
        assert 1e-4 < section["contenders"][BFLOAT16]["difference"] < 1
        assert set(section["times_as_fast"]) == {OURS, COMPILED, BFLOAT16}
        assert section["times_as_fast"][OURS][baseline] > 0
    tables = encode_tables(report)
    assert [table.row_count for table in tables] == [4] * 4
    assert "before the first image" in str(tables[0].caption)


def test_a_compiler_begins_afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    resets: list[None] = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(None))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "of the user")
    with benchmark_encode.nothing_compiled():
        assert list(Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).iterdir()) == []
        assert len(resets) == 1
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "of the user"


def test_aims_are_shown_where_they_hold() -> None:
    result = {"seconds": 0.1, "warm_up_seconds": 0.0, "difference": 0.0}
    section = {
        "image_size": 1024,
        "reference": OFFICIAL,
        "contenders": {OFFICIAL: result, OURS: result, BFLOAT16: result},
        "times_as_fast": {OURS: {OFFICIAL: 1.7}, BFLOAT16: {OFFICIAL: 3.1}},
    }
    for side, expected in ((1024, ["–", "1.70× (≥ 1.6: yes)", "3.10× (≥ 3.2: no)"]), (512, ["–", "1.70×", "3.10×"])):
        table = encode_tables({"models": {"mobile-sam": section | {"image_size": side}}})[0]
        assert list(table.columns[2].cells) == expected


def test_decoders_agree_and_are_reported(tiny_models: None) -> None:
    progress: list[float] = []
    names = ("sam-vit-base", "mobile-sam", "sam2.1-hiera-tiny", "embedded")
    report = measure_decode(DecodeSettings(models=names, prompts=(1, 5), repeats=1), progress.append)
    assert sum(progress) == pytest.approx(1)
    for section in json.loads(json.dumps(report["models"])).values():
        assert [(row["prompts"], row["kind"]) for row in section["rows"]] == [
            (1, "point"),
            (1, "box"),
            (5, "point"),
            (5, "box"),
        ]
        for row in section["rows"]:
            assert set(row["contenders"]) == {OURS, PLAIN, benchmark_decode.THEIRS}
            assert max(found["difference"] for found in row["contenders"].values()) < 1e-3
            assert set(row["times_as_fast"]) == {PLAIN, benchmark_decode.THEIRS}
    assert [table.row_count for table in decode_tables(report)] == [4] * 4


@torch.no_grad()
def test_the_plain_decoder_is_plain_for_a_while() -> None:
    decoder: Any = tiny_model("tiny_vit").mask_decoder
    assert decoder.is_foldable(7)
    with plain_decoder(type("Model", (), {"mask_decoder": decoder})):
        assert not decoder.is_foldable(7)
    assert decoder.is_foldable(7)


def test_presets_at_other_sizes_have_weights_that_all_matter() -> None:
    config = sized_config("sam-vit-base", 64)
    assert (config.image_size, config.vision_config.image_size) == (64, 64)
    with pytest.raises(ValueError, match="image_size=100 must be a multiple of 16"):
        sized_config("mobile-sam", 100)
    model: Any = randomised(tiny_model("vit"))
    assert all(parameter.std() > 0.01 for parameter in model.parameters() if parameter.numel() > 1)


@pytest.mark.parametrize("command", ["encode", "decode"])
def test_the_commands(command: str, tiny_models: None) -> None:
    arguments = ["benchmark", command, "--models", "embedded", "--repeats", "1", "--threads", "1"]
    result = CliRunner().invoke(cli.app, [*arguments, "--quick", "--skip-transformers", "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["benchmark"] == command
    assert list(report["models"]) == ["embedded"]
    unknown = CliRunner().invoke(cli.app, ["benchmark", command, "--models", "sam3"], prog_name="sam-variants")
    assert unknown.exit_code != 0
    assert "'sam3' is none of sam-vit-base" in unknown.output
