"""Adapters: without effect at first, trained and saved alone, and merged to exactly what they do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModel, PeftModel
from tiny import TINY_VISION, save_tiny, tiny_model, tiny_video_model
from torch import Tensor, nn
from transformers import AutoModel

from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.modeling_sam_variants_video import SamVariantsVideoModel
from sam_variants.training.adapter_files import quiet_peft
from sam_variants.training.lora import LORA_TARGETS, add_lora, load_adapter, merge_adapter, save_adapter

pytestmark = pytest.mark.filterwarnings("error::FutureWarning", "error::UserWarning")

ENCODERS = ["vit", "tiny_vit", "hiera"]
FILES = ["README.md", "adapter_config.json", "adapter_model.safetensors"]
DECODER_ALONE: dict[str, Any] = {"parts": ("mask_decoder",), "train_decoder": False}


def plain_model(name: str) -> SamVariantsModel:
    """The same tiny model at every call."""
    torch.manual_seed(0)
    return tiny_model(name)


def video_model(name: str = "tiny_vit_with_skips") -> SamVariantsVideoModel:
    """The same tiny model that tracks at every call."""
    torch.manual_seed(0)
    return tiny_video_model(name)


def inputs(size: int = 64) -> dict[str, Tensor]:
    """Two images with three objects each."""
    generator = torch.Generator().manual_seed(1)
    return {
        "pixel_values": torch.randn(2, 3, size, size, generator=generator),
        "input_points": torch.rand(2, 3, 1, 2, generator=generator) * size,
        "input_labels": torch.ones(2, 3, 1, dtype=torch.long),
    }


def masks(model: nn.Module, size: int = 64) -> Tensor:
    """What a model answers in inference, where its fast paths are."""
    with torch.inference_mode():
        return model(**inputs(size)).pred_masks


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max())


def base_of(model: PeftModel) -> SamVariantsModel:
    """The model of the package inside."""
    return model.get_base_model()  # type: ignore[return-value]


def excite(model: nn.Module, seed: int = 0) -> None:
    """Give adapters, which begin at zero, and what is trained beside them, an effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def adapted(name: str, **how: Any) -> PeftModel:
    """A tiny model with adapters that do something, in eval mode."""
    model = add_lora(plain_model(name), rank=4, **how)
    excite(model)
    return model


def train_a_step(model: nn.Module, **more: Any) -> None:
    """One step of plain SGD, in train mode."""
    model.train()
    labels = torch.zeros(2, 3, 64, 64)
    labels[..., :32] = 1
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(**inputs(), labels=labels, **more).loss.backward()
    optimizer.step()
    model.eval()


@pytest.mark.parametrize("name", ENCODERS)
def test_an_adapter_starts_without_effect_and_is_all_that_is_trained(name: str) -> None:
    plain = plain_model(name)
    expected, before = masks(plain), {key: value.clone() for key, value in plain.state_dict().items()}
    model = add_lora(plain_model(name), rank=4, dropout=0.1)
    assert not any(module.training for module in model.modules())
    assert difference(masks(model), expected) < 1e-6
    train_a_step(model)
    changed = 0
    for key, value in model.state_dict().items():
        if "lora_" in key or ".modules_to_save." in key:
            continue
        assert torch.equal(
            value,
            before[key.removeprefix("base_model.model.").replace("base_layer.", "").replace("original_module.", "")],
        ), key
        changed += 1
    assert changed == len(before)  # statistics of batch norms among them
    adapters = {key: value for key, value in model.named_parameters() if "lora_B" in key}
    assert adapters
    assert all(value.any() for value in adapters.values())
    decoder = model.get_submodule("base_model.model.mask_decoder.modules_to_save.default")
    moved = [
        key for key, value in decoder.state_dict().items() if not torch.equal(value, before[f"mask_decoder.{key}"])
    ]
    assert len(moved) > 40
    assert difference(masks(model), expected) > 1e-3


@pytest.mark.parametrize(
    ("build", "parts", "wanted"),
    [
        (lambda: plain_model("vit"), ("image_encoder",), 3 * 2),
        (lambda: plain_model("tiny_vit"), ("image_encoder",), 3 * 2),
        (lambda: plain_model("hiera"), ("image_encoder",), 7 * 2),
        (lambda: plain_model("vit"), ("mask_decoder",), 2 * 3 * 4 + 4),
        (video_model, ("memory_attention",), 2 * 2 * 4),
        (lambda: video_model("hiera"), ("image_encoder", "mask_decoder", "memory_attention"), 14 + 28 + 16),
    ],
)
def test_the_attentions_of_the_named_parts_get_adapters(build: Any, parts: tuple[str, ...], wanted: int) -> None:
    model = add_lora(build(), parts=parts, train_decoder=False)
    found = [name.removeprefix("base_model.model.") for name, m in model.named_modules() if hasattr(m, "lora_A")]
    assert len(found) == wanted
    assert {name.split(".")[0] for name in found} == set(parts)
    assert all(re.search(r"attn.*\.(qkv|proj|[qkv]_proj|out_proj)$", name) for name in found)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * wanted
    assert all("lora_" in name for name in trained)


def test_every_encoder_has_its_targets() -> None:
    kinds = {str(values["model_type"]) for values in TINY_VISION.values()}
    assert {name for name in LORA_TARGETS if name.startswith("sam_variants_")} == kinds


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("size", [64, 512])
def test_fast_inference_sees_the_adapter(name: str, size: int) -> None:
    model = adapted(name)
    found = masks(model, size)
    assert difference(found, masks(plain_model(name), size)) > 1e-3
    assert difference(found, masks(merge_adapter(model), size)) < 1e-4 * float(found.abs().max())


@pytest.mark.parametrize("size", [64, 256])
def test_the_folded_decoder_refuses_adapters_and_takes_a_trained_one(size: int) -> None:
    plain = plain_model("tiny_vit")
    num_tokens = plain.mask_decoder.num_output_tokens + 2
    model, whole = adapted("tiny_vit", **DECODER_ALONE), adapted("tiny_vit")
    with torch.inference_mode():
        assert plain.mask_decoder.is_foldable(num_tokens)
        assert not base_of(model).mask_decoder.is_foldable(num_tokens)
        assert base_of(whole).mask_decoder.is_foldable(num_tokens)
    for changed in (model, whole):
        found = masks(changed, size)
        assert difference(found, masks(plain, size)) > 1e-3
        assert difference(found, masks(merge_adapter(changed), size)) < 1e-4 * float(found.abs().max())


def test_tracking_sees_the_adapter_in_the_memory() -> None:
    def tracked(model: Any) -> Tensor:
        memory, generator = model.memory_attention, torch.Generator().manual_seed(0)
        tokens = torch.randn(1, 256, 32, generator=generator)
        with torch.inference_mode():
            return memory(tokens, torch.randn(2, 256 * 7, 16, generator=generator), num_obj_ptr_tokens=0)

    plain = tracked(video_model())
    model = add_lora(video_model(), parts=("memory_attention",), train_decoder=False)
    excite(model)
    found = tracked(model)
    assert difference(found, plain) > 1e-3
    assert difference(found, tracked(merge_adapter(model))) < 1e-4


def test_a_fused_model_with_an_adapter_computes_the_same() -> None:
    model = adapted("tiny_vit")
    expected = masks(model)
    fused: Any = model.fuse()  # type: ignore[operator]
    assert difference(masks(model), expected) < 1e-4
    assert difference(masks(fused), expected) < 1e-4
    with pytest.raises(ValueError, match="fused"):
        model.train()
    with pytest.raises(ValueError, match="fused"):
        add_lora(plain_model("tiny_vit").fuse())


@pytest.mark.parametrize("name", ENCODERS)
def test_save_load_merge(name: str, tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base", name)
    model = add_lora(AutoModel.from_pretrained(base), rank=4)
    excite(model)
    expected = masks(model)
    folder = save_adapter(model, tmp_path / "adapter")
    assert sorted(path.name for path in folder.iterdir()) == FILES
    again = load_adapter(AutoModel.from_pretrained(base), folder)
    assert difference(masks(again), expected) < 1e-6
    assert not any(parameter.requires_grad for parameter in again.parameters())
    merged = merge_adapter(again)
    assert type(merged) is SamVariantsModel
    assert difference(masks(merged), expected) < 1e-5 * float(expected.abs().max())
    assert {type(m) for m in merged.modules()} == {type(m) for m in plain_model(name).modules()}
    assert all(parameter.requires_grad for parameter in merged.parameters())
    merged.save_pretrained(tmp_path / "merged")
    plain = AutoModel.from_pretrained(tmp_path / "merged")
    assert torch.equal(masks(plain), masks(merged))
    merged.train()
    merged(**inputs())
    add_lora(plain)


def test_files_are_small_and_name_their_base(tmp_path: Path) -> None:
    model = add_lora(AutoModel.from_pretrained(default_checkpoint()), train_decoder=False)
    folder = save_adapter(model, tmp_path / "embedded")
    size = (folder / "adapter_model.safetensors").stat().st_size
    assert size < 4 * sum(p.numel() for p in model.parameters() if p.requires_grad) + 10_000
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(default_checkpoint())
    assert config["target_modules"] == LORA_TARGETS["sam_variants_tiny_vit"]
    card = (folder / "README.md").read_text()
    assert "load_checkpoint(sam_variants.default_checkpoint())" in card
    assert "base_model:" not in card  # the Hub takes repositories only
    card = save_adapter_card(model, tmp_path, "sam-vit-base")
    assert 'load_checkpoint("facebook/sam-vit-base")' in card
    assert "\nbase_model: facebook/sam-vit-base\n" in card
    assert "\nbase_model_relation: adapter\n" in card
    with pytest.raises(ValueError, match="neither a repository on the Hub"):
        save_adapter(model, tmp_path / "other", base_model="my model")


def save_adapter_card(model: nn.Module, tmp_path: Path, base_model: str) -> str:
    return (save_adapter(model, tmp_path / "named", base_model=base_model) / "README.md").read_text()


def test_the_code_of_the_card_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = save_tiny(tmp_path / "base", "tiny_vit")
    model = add_lora(AutoModel.from_pretrained(base), rank=4)
    excite(model)
    folder = save_adapter(model, tmp_path / "adapter")
    code = re.findall(r"```python\n(.+?)```", (folder / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(folder)
    values: dict[str, Any] = {}
    exec("\n".join(code), values)
    assert difference(masks(values["model"]), masks(model)) < 1e-3
    assert values["processor"].image_processor.size == {"longest_edge": 64}


def test_peft_alone_loads_it_too(tmp_path: Path) -> None:
    model = add_lora(AutoModel.from_pretrained(save_tiny(tmp_path / "base", "vit")), rank=4)
    excite(model)
    folder, allowed = save_adapter(model, tmp_path / "adapter"), [SamVariantsModel.__module__]
    with quiet_peft():
        again = AutoPeftModel.from_pretrained(str(folder), import_allowlist=allowed)
    assert difference(masks(again), masks(model)) < 1e-6


def test_an_adapter_is_trained_further(tmp_path: Path) -> None:
    folder = save_adapter(adapted("tiny_vit"), tmp_path)
    model = load_adapter(plain_model("tiny_vit"), folder, is_trainable=True)
    expected = masks(model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    fresh = add_lora(plain_model("tiny_vit"), rank=4)
    assert trained == {name for name, parameter in fresh.named_parameters() if parameter.requires_grad}
    train_a_step(model)
    assert difference(masks(model), expected) > 1e-4


def test_an_image_model_s_adapter_fits_the_video_model(tmp_path: Path) -> None:
    video = add_lora(video_model(), rank=4)
    excite(video)
    merged = merge_adapter(load_adapter(video_model(), save_adapter(video, tmp_path)))
    assert type(merged) is SamVariantsVideoModel
    assert difference(masks(merged), masks(video)) < 1e-4


@pytest.mark.parametrize(("when", "reentrant"), [("before", True), ("after", False)])
@pytest.mark.parametrize("name", ENCODERS)
def test_gradient_checkpointing(name: str, when: str, reentrant: bool) -> None:
    def gradients(checkpointing: bool) -> dict[str, Tensor]:
        model: Any = plain_model(name)
        if checkpointing and when == "before":
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
        torch.manual_seed(0)
        model = add_lora(model, rank=4)
        if checkpointing and when == "after":
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
        excite(model)
        model.train()
        model(**inputs(), labels=torch.ones(2, 3, 64, 64)).loss.backward()
        return {key: value.grad for key, value in model.named_parameters() if value.requires_grad}

    expected, found = gradients(False), gradients(True)
    assert all(gradient is not None and gradient.any() for key, gradient in found.items() if "lora_" in key)
    for key, gradient in expected.items():
        if gradient is not None:
            assert difference(found[key], gradient) < 1e-5, key


def test_an_adapter_on_another_base(tmp_path: Path) -> None:
    folder = save_adapter(adapted("tiny_vit"), tmp_path)
    wide: Any = plain_model("tiny_vit")
    wide.config.vision_config.embed_dims = [16, 24, 32, 48]
    wide = SamVariantsModel(wide.config).eval()
    before = masks(wide)
    with pytest.raises(
        ValueError, match=r"made for another model: 4 of \d+ tensors differ, such as .* is 4×40 there and 4×48 here"
    ):
        load_adapter(wide, folder)
    deeper: Any = plain_model("tiny_vit")
    deeper.config.vision_config.depths = [1, 2, 1, 1]
    with pytest.raises(ValueError, match=r"layers\.1\.blocks\.1.* is missing there and 4×24 here"):
        load_adapter(SamVariantsModel(deeper.config), folder)
    with pytest.raises(ValueError, match="adapts layers that a SamVariantsModel with this configuration lacks"):
        load_adapter(plain_model("vit"), folder)
    assert torch.equal(masks(wide), before)  # untouched
    add_lora(wide)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"rank": 0}, "rank=0"),
        ({"rank": 2.5}, r"rank=2\.5"),
        ({"alpha": 0}, "alpha=0"),
        ({"dropout": 1.0}, r"dropout=1\.0"),
        ({"parts": ()}, "parts="),
        ({"parts": "prompt_encoder"}, "parts=.*must name one or more of image_encoder, mask_decoder for this model"),
        ({"parts": ("memory_attention",)}, "must name one or more of image_encoder, mask_decoder for this model"),
        ({"parts": ("image_encoder", "mask_decoder")}, "trained as a whole"),
    ],
)
def test_what_add_lora_refuses(how: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        add_lora(plain_model("vit"), **how)


def test_models_that_are_refused(tmp_path: Path) -> None:
    model = plain_model("tiny_vit")
    wrapped = add_lora(model)
    folder = save_adapter(wrapped, tmp_path / "adapter")
    for twice in (model, wrapped):
        with pytest.raises(ValueError, match="has an adapter already"):
            add_lora(twice)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="has an adapter already"):
            load_adapter(twice, folder)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="save_adapter"):
        model.save_pretrained(tmp_path / "whole")
    with pytest.raises(TypeError, match=r"expected a SamVariantsModel.* got Linear"):
        add_lora(nn.Linear(2, 2))  # type: ignore[arg-type]
    for function in (merge_adapter, lambda plain: save_adapter(plain, tmp_path / "none")):
        with pytest.raises(TypeError, match="a model with adapters"):
            function(plain_model("vit"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("adapter_config.json", b"[]", "is no configuration of an adapter"),
        ("adapter_config.json", b'{"peft_type": "IA3"}', "'IA3'; only plain LORA"),
        ("adapter_config.json", b'{"peft_type": "LORA", "megatron_config": {"a": 1}}', "only plain LORA"),
        (
            "adapter_config.json",
            b'{"peft_type": "LORA", "r": 0, "target_modules": ".*qkv"}',
            "another model|configuration",
        ),
        ("adapter_model.safetensors", b"1234567890", "is damaged"),
    ],
)
def test_damaged_files(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    folder = save_adapter(adapted("tiny_vit"), tmp_path)
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        load_adapter(plain_model("tiny_vit"), folder)


def test_folders_that_hold_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"adapter_config\.json and adapter_model\.safetensors missing"):
        load_adapter(plain_model("vit"), tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        load_adapter(plain_model("vit"), tmp_path / "nothing" / "here")
    with pytest.raises(
        OSError, match=r"there is no folder 'me/nothing', and from the Hub it can't be had: .*HF_HUB_OFFLINE"
    ):
        load_adapter(plain_model("vit"), "me/nothing")
    with pytest.raises(ValueError, match="revision='main' is for repositories"):
        load_adapter(plain_model("vit"), tmp_path, revision="main")
