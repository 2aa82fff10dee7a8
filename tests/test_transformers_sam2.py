"""SAM 2 and 2.1 against transformers' own models: the same weights give the same masks, on images and through video."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_models import (
    PROMPTS,
    THEIR_IMAGE_PARTS,
    THEIR_VIDEO,
    TINY,
    TINY_SAM2_0,
    TOLERANCE,
    copied,
    difference,
    image_keys,
    model_from,
    randomise,
    same_tensors,
    tiny_model,
)
from torch import Tensor, nn
from transformers import PreTrainedConfig, Sam2Config, Sam2Model, Sam2VideoConfig, Sam2VideoModel
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from sam_variants.checkpoint_layouts.layout_table import LAYOUTS
from sam_variants.checkpoint_layouts.load_checkpoint import export_state_dict, load_checkpoint
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.modeling_sam_variants_video import SamVariantsVideoModel
from sam_variants.processing.frame_processing import prepare_frame
from sam_variants.processing.processor_for import processor_for

# A memory is rounded to bfloat16, so a last bit of float32 can become one of bfloat16 in single elements.
TRACKING_TOLERANCE = 5e-4


def random_model(model_class: type, config: PreTrainedConfig) -> Any:
    """One of transformers' models with random weights, its two Gaussian matrices equal as in every published file."""
    model: Any = randomise(model_class(config), gain=1.0, sharpness=8.0)
    model.prompt_encoder.shared_embedding.load_state_dict(model.shared_image_embedding.state_dict())
    return model


@pytest.fixture
def their_image_model() -> Sam2Model:
    return random_model(Sam2Model, Sam2Config.from_dict(THEIR_IMAGE_PARTS))


@pytest.fixture
def their_video_model() -> Sam2VideoModel:
    return random_model(Sam2VideoModel, Sam2VideoConfig.from_dict(THEIR_VIDEO))


def test_sam2_model_on_images(their_image_model: Sam2Model, tmp_path: Path) -> None:
    """Points, boxes and both, several masks and the stable one: masks, IoU and object scores are theirs."""
    their_image_model.save_pretrained(tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert type(loaded) is SamVariantsModel
    assert difference(their_image_model, loaded) < TOLERANCE
    assert same_tensors(export_state_dict(loaded, "transformers-sam2"), their_image_model.state_dict())
    (tmp_path / "config.json").unlink()
    by_names = load_checkpoint(tmp_path / "model.safetensors", preset=loaded.config)
    assert same_tensors(by_names.state_dict(), loaded.state_dict())


@pytest.mark.parametrize("kind", PROMPTS)
def test_sam2_model_with_mask_prompts(kind: str, their_image_model: Sam2Model, tmp_path: Path) -> None:
    their_image_model.save_pretrained(tmp_path)
    loaded = load_checkpoint(tmp_path)
    one_object = {name: value[:, :1] for name, value in PROMPTS[kind].items()}
    prompts = {"pixel_values": torch.randn(1, 3, 64, 64), **one_object}
    mask = 4 * torch.randn(1, 1, 16, 16)
    with torch.no_grad():
        theirs, ours = (model(**prompts, input_masks=mask).pred_masks for model in (their_image_model, loaded))
        without_mask = loaded(**prompts).pred_masks
    assert (theirs - ours).abs().max() < TOLERANCE
    assert (without_mask - ours).abs().max() > 100 * TOLERANCE


def test_prompts_make_a_difference(their_image_model: Sam2Model) -> None:
    """Else the comparisons here would not see a prompt that is embedded wrongly."""
    pixel_values = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        masks = [their_image_model(pixel_values=pixel_values, **prompts).pred_masks for prompts in PROMPTS.values()]
    assert min((masks[0] - masks[1]).abs().max(), (masks[1] - masks[2]).abs().max()) > 50 * TOLERANCE


def test_sam2_video_model_on_images(their_video_model: Sam2VideoModel, tmp_path: Path) -> None:
    """The video model's image part is a Sam2Model in transformers, and inherited here; its folder comes back."""
    their_video_model.save_pretrained(tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert type(loaded) is SamVariantsVideoModel
    assert same_tensors(export_state_dict(loaded, "transformers-sam2-video"), their_video_model.state_dict())
    assert difference(to_theirs(loaded, Sam2Model, "transformers-sam2"), loaded) < TOLERANCE


def to_theirs(model: SamVariantsModel, model_class: Any, layout: str) -> Any:
    """The model that transformers makes of our weights and configuration, every key of which must be used."""
    theirs, info = model_class.from_pretrained(
        None,
        config=LAYOUTS[layout].config_to(model.config),  # type: ignore[misc]
        state_dict=copied(export_state_dict(model, layout)),
        output_loading_info=True,
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return theirs.eval()


@pytest.mark.parametrize("values", [TINY["sam2"], TINY_SAM2_0], ids=["2.1", "2.0"])
def test_ours_in_both_transformers_layouts(values: dict[str, Any], tmp_path: Path) -> None:
    model = model_from(values)
    to_theirs(model, Sam2VideoModel, "transformers-sam2-video").save_pretrained(tmp_path / "video")
    loaded = load_checkpoint(tmp_path / "video")
    assert type(loaded) is SamVariantsVideoModel
    assert loaded.config.no_obj_embed_spatial == ("no_obj_embed_spatial" not in values)
    assert same_tensors(loaded.state_dict(), model.state_dict())
    to_theirs(model, Sam2Model, "transformers-sam2").save_pretrained(tmp_path / "images")
    loaded = load_checkpoint(tmp_path / "images")
    assert type(loaded) is SamVariantsModel
    assert same_tensors(loaded.state_dict(), image_keys(model.state_dict()))
    assert difference(model, loaded) == 0


# Object id → prompts on the first frame, for both sessions.
ONE_OBJECT: dict[int, dict[str, Any]] = {1: {"points": [[20.0, 30.0]], "labels": [1]}}
TWO_OBJECTS: dict[int, dict[str, Any]] = {
    7: {"boxes": [5.0, 6.0, 40.0, 50.0]},
    4: {"points": [[20.0, 30.0], [50.0, 10.0]], "labels": [1, 0]},
}


def their_session(pixel_values: Tensor, prompts: dict[int, dict[str, Any]]) -> Sam2VideoInferenceSession:
    """transformers' session over frames as large as the model's input, with the prompts on its first frame."""
    height, width = pixel_values.shape[-2:]
    session = Sam2VideoInferenceSession(
        video=pixel_values, video_height=height, video_width=width, dtype=pixel_values.dtype
    )
    for object_id, prompt in prompts.items():
        corners = {"points": prompt.get("boxes"), "labels": [2, 3]}
        points = prompt if "points" in prompt else corners
        inputs = {
            "point_coords": torch.tensor(points["points"]).reshape(1, 1, -1, 2),
            "point_labels": torch.tensor(points["labels"]).reshape(1, 1, -1),
        }
        session.add_point_inputs(session.obj_id_to_idx(object_id), 0, inputs)
    session.obj_with_new_inputs = list(prompts)
    return session


@torch.no_grad()
def push_scores(layer: nn.Linear, is_visible: bool) -> None:
    """Move the object scores, whose last layer this is, far to one side of 0."""
    layer.bias += 10.0 if is_visible else -10.0


def check_tracking(ours: Any, theirs: Sam2VideoModel, prompts: dict[int, dict[str, Any]], num_frames: int = 9) -> None:
    """Compare logits and object scores of both on every frame."""
    ours.config.fill_hole_area = 0
    processor = processor_for(ours)
    frames = torch.randint(256, (num_frames, 64, 64, 3), dtype=torch.uint8).numpy()
    pixel_values = torch.cat([prepare_frame(processor, frame).pixel_values for frame in frames])
    answers = theirs.propagate_in_video_iterator(their_session(pixel_values, prompts), start_frame_idx=0)
    results = ours.start_session(processor, num_frames=num_frames).track(iter(frames), prompts={0: prompts})
    for masks, answer in zip(results, answers, strict=True):
        assert masks.object_ids.tolist() == answer.object_ids
        logits = masks._store.logits
        assert (logits - answer.pred_masks[:, 0]).abs().max() < TRACKING_TOLERANCE
        assert (masks.object_score_logits - answer.object_score_logits[:, 0]).abs().max() < TRACKING_TOLERANCE


@pytest.mark.parametrize("is_visible", [True, False], ids=["visible", "hidden"])
@pytest.mark.parametrize("values", [TINY["sam2"], TINY_SAM2_0], ids=["2.1", "2.0"])
def test_tracking_is_that_of_transformers(values: dict[str, Any], is_visible: bool) -> None:
    """More frames than a frame looks back on, and two objects at once.

    Prompts of masks are not compared: transformers remembers the given mask, SAM 2's predictor and ours the logits made
    of it, which are four times coarser.
    """
    model = model_from(values)
    push_scores(model.mask_decoder.pred_obj_score_head.layers[2], is_visible)
    check_tracking(model, to_theirs(model, Sam2VideoModel, "transformers-sam2-video"), TWO_OBJECTS)


def test_tracking_of_a_loaded_folder(their_video_model: Sam2VideoModel, tmp_path: Path) -> None:
    """The reading direction, with sizes of memory and rotary embedding that nobody published."""
    push_scores(their_video_model.mask_decoder.pred_obj_score_head.proj_out, True)
    their_video_model.save_pretrained(tmp_path)
    check_tracking(load_checkpoint(tmp_path), their_video_model, ONE_OBJECT)


def test_the_processor_of_a_loaded_model() -> None:
    model = tiny_model("sam2")
    for source in (model, model.config, model.image_encoder, model.config.vision_config):
        image_processor = processor_for(source).image_processor
        assert (image_processor.image_size, image_processor.resize_mode) == (64, "square")
        assert dict(image_processor.mask_size) == {"height": 16, "width": 16}
    with pytest.raises(TypeError, match="processor_for takes a model, its configuration, or one of"):
        processor_for(model.memory_encoder)
