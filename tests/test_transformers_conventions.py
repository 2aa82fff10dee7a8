"""What transformers' own common model tests demand of a pretrained model, for every encoder and for the whole model."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from sam_variants.modeling_sam_variants import SamVariantsModel
from tests.tiny import TINY_VISION, tiny_config, tiny_model

each_encoder = pytest.mark.parametrize("name", sorted(TINY_VISION))


def inputs(batch: int = 1) -> dict[str, Tensor]:
    """Images with every kind of prompt, two objects each."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.ones(batch, 2, 2, dtype=torch.long)
    labels[..., 1] = 0
    return {
        "pixel_values": torch.randn(batch, 3, 64, 64, generator=generator),
        "input_points": 60 * torch.rand(batch, 2, 2, 2, generator=generator),
        "input_labels": labels,
        "input_boxes": torch.tensor([4.0, 4.0, 30.0, 40.0]).expand(batch, 2, 4),
        "input_masks": torch.randn(batch, 2, 16, 16, generator=generator),
    }


def parts(model: SamVariantsModel) -> list[PreTrainedModel]:
    return [model, model.image_encoder, model.prompt_encoder, model.mask_decoder]


@each_encoder
def test_forward_takes_pixel_values_first_and_names_the_common_options(name: str) -> None:
    model = tiny_model(name)
    for part in (model, model.image_encoder):
        parameters = inspect.signature(part.forward).parameters
        assert next(iter(parameters)) == part.main_input_name == "pixel_values"
        options = parameters["kwargs"].annotation.__args__[0].__annotations__
        assert {"output_attentions", "output_hidden_states"} <= options.keys()


@each_encoder
def test_returned_maps_and_attentions_retain_gradients(name: str) -> None:
    model = tiny_model(name)
    model.set_attn_implementation("eager")
    encoded = model.image_encoder(inputs()["pixel_values"], output_hidden_states=True, output_attentions=True)
    out = model(**inputs(), output_hidden_states=True, output_attentions=True)
    results = {
        "encoder maps": (encoded.last_hidden_state, encoded.hidden_states),
        "encoder attentions": (encoded.last_hidden_state, encoded.attentions),
        "model maps": (out.pred_masks, out.vision_hidden_states),
        "model attentions": (out.pred_masks, out.vision_attentions),
        "decoder attentions": (out.pred_masks, out.mask_decoder_attentions),
    }
    for what, (result, kept) in results.items():
        for tensor in kept:
            tensor.retain_grad()
        result.square().sum().backward(retain_graph=True)
        assert all(tensor.grad is not None and tensor.grad.abs().max() > 0 for tensor in kept), what


@each_encoder
def test_a_tuple_holds_what_the_named_output_holds(name: str) -> None:
    model = tiny_model(name)
    model.set_attn_implementation("eager")
    options = {"output_hidden_states": True, "output_attentions": True}
    for part, given in ((model, inputs()), (model.image_encoder, {"pixel_values": inputs()["pixel_values"]})):
        with torch.no_grad():
            named, plain = part(**given, **options), part(**given, **options, return_dict=False)
        assert isinstance(plain, tuple)
        torch.testing.assert_close(plain, named.to_tuple(), rtol=0, atol=0)


@each_encoder
def test_options_in_the_configuration_count_as_arguments(name: str) -> None:
    model = tiny_model(name)
    for part in (model, model.image_encoder):
        part.set_attn_implementation("eager")
        part.config.output_attentions = part.config.output_hidden_states = True
    with torch.no_grad():
        out = model.image_encoder(inputs()["pixel_values"])
        whole = model(**inputs())
    assert list(out.keys())[-2:] == ["hidden_states", "attentions"]
    assert whole.vision_hidden_states is not None
    assert whole.mask_decoder_attentions is not None


@each_encoder
def test_initialisation_alone_fills_every_tensor(name: str, poison_empty: None) -> None:
    for part in parts(tiny_model(name)):
        with torch.device("meta"):
            model = type(part)(copy.deepcopy(part.config))
        model.to_empty(device="cpu").init_weights()
        built = type(part)(copy.deepcopy(part.config))
        wanted = dict([*built.named_parameters(), *built.named_buffers()])
        for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
            expected = wanted[key]
            assert tensor.isfinite().all(), key
            if expected.is_floating_point() and expected.std(correction=0) > 0:  # random: same scale
                assert 0.5 < tensor.std() / expected.std() < 2, key
            else:
                assert torch.equal(tensor, expected), key


@each_encoder
def test_missing_and_mismatched_weights_are_initialised(name: str, tmp_path: Path, poison_empty: None) -> None:
    model = tiny_model(name)
    state = model.state_dict()
    dropped = [key for key in state if key.startswith("mask_decoder.")]
    wrong = next(key for key in state if key.startswith("image_encoder.neck.") and state[key].ndim == 4)
    given = {key: value for key, value in state.items() if key not in dropped}
    given[wrong] = given[wrong][:-1]
    model.save_pretrained(tmp_path, state_dict=given)
    with pytest.raises(RuntimeError, match="mismatch"):
        SamVariantsModel.from_pretrained(tmp_path)
    loaded, info = SamVariantsModel.from_pretrained(tmp_path, ignore_mismatched_sizes=True, output_loading_info=True)
    assert set(info["missing_keys"]) == set(dropped)
    assert [key for key, *_ in info["mismatched_keys"]] == [wrong]
    found = loaded.state_dict()
    assert all(tensor.isfinite().all() for tensor in found.values())
    assert all(torch.equal(found[key], state[key]) for key in state if key not in dropped and key != wrong)


@each_encoder
def test_a_batch_gives_what_its_images_give_alone(name: str) -> None:
    model = tiny_model(name)
    batch = inputs(3)
    with torch.no_grad():
        together = model(**batch).pred_masks
        for row in range(3):
            alone = model(**{key: value[row : row + 1] for key, value in batch.items()}).pred_masks
            torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)


@each_encoder
def test_reentrant_checkpointing_gives_the_same_gradients(name: str) -> None:
    model = tiny_model(name).train()
    twin = copy.deepcopy(model)
    twin.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": True})
    twin.enable_input_require_grads()
    for candidate in (model, twin):
        candidate(**inputs(2)).pred_masks.square().mean().backward()
    for (key, one), (_, two) in zip(model.named_parameters(), twin.named_parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None), key
        if one.grad is not None:
            torch.testing.assert_close(one.grad, two.grad, msg=key)


@each_encoder
def test_attention_is_chosen_while_running_for_model_and_part(name: str) -> None:
    twin = copy.deepcopy(tiny_model(name))
    twin.set_attn_implementation({"vision_config": "eager"})
    chosen = {key: part.config._attn_implementation for key, part in twin.named_children()}
    assert chosen == {"image_encoder": "eager", "prompt_encoder": "sdpa", "mask_decoder": "sdpa"}
    for key, part in twin.named_children():
        assert part.config is getattr(twin.config, key.replace("image_encoder", "vision") + "_config"), key


@each_encoder
def test_configurations_survive_every_round_trip(name: str, tmp_path: Path) -> None:
    config = tiny_config(name)
    config.save_pretrained(tmp_path / "sub")
    loaded = type(config).from_pretrained(tmp_path, subfolder="sub")
    assert loaded.to_dict() == config.to_dict()
    assert type(config).from_json_file(tmp_path / "sub" / "config.json").to_dict() == config.to_dict()
    for key in config.sub_configs:
        part: PreTrainedConfig = getattr(config, key)
        out_of_whole: Any = type(part).from_pretrained(tmp_path / "sub")
        expected = part.to_dict()
        found = out_of_whole.to_dict()
        assert {k: v for k, v in found.items() if k != "transformers_version"} == {
            k: v for k, v in expected.items() if k != "transformers_version"
        }


@each_encoder
def test_input_embeddings_are_a_module(name: str) -> None:
    model = tiny_model(name)
    assert isinstance(model.get_input_embeddings(), nn.Module)
    assert model.get_output_embeddings() is None
