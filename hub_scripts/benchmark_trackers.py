"""What `sam-variants benchmark track` compares: our session and transformers', with the same random weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Sam2VideoModel
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from sam_variants.checkpoint_layouts.layout_table import LAYOUTS
from sam_variants.checkpoint_layouts.load_checkpoint import export_state_dict
from sam_variants.configuration.configuration_sam_variants_video import SamVariantsVideoConfig
from sam_variants.configuration.presets import PRESETS, SAM2_MASK_DECODER, SAM2_PROMPT_ENCODER, config_for
from sam_variants.hub_scripts.benchmark_models import sized_config
from sam_variants.modeling_sam_variants_video import SamVariantsVideoModel
from sam_variants.processing.frame_processing import PreparedFrame
from sam_variants.processing.processor_for import processor_for
from sam_variants.transformers_video import NamedTracker

TRANSFORMERS_LAYOUT = "transformers-sam2-video"
# The smallest model that both can hold: transformers' memories are 64 wide, whatever the rest is.
SMALL_WIDTH = 128
SMALL_MODEL: dict[str, Any] = {
    "vision_config": {
        "model_type": "sam_variants_hiera",
        "image_size": 128,
        "embed_dim": 16,
        "stages": [1, 2, 3, 1],
        "global_att_blocks": [4],
        "window_pos_embed_bkg_spatial_size": [5, 5],
        "window_spec": [8, 4, 6, 3],
        "out_chans": SMALL_WIDTH,
    },
    "prompt_encoder_config": SAM2_PROMPT_ENCODER | {"embed_dim": SMALL_WIDTH},
    "mask_decoder_config": SAM2_MASK_DECODER
    | {
        "high_resolution_channels": [SMALL_WIDTH, SMALL_WIDTH],
        "transformer_dim": SMALL_WIDTH,
        "transformer_mlp_dim": 2 * SMALL_WIDTH,
        "iou_head_hidden_dim": SMALL_WIDTH,
    },
    "memory_attention_config": {
        "d_model": SMALL_WIDTH,
        "num_layers": 2,
        "dim_feedforward": 2 * SMALL_WIDTH,
        "feat_sizes": [8, 8],
    },
    "memory_encoder_config": {"in_dim": SMALL_WIDTH},
}
# Objects of random weights would come and go; this keeps them visible.
VISIBLE_SCORE = 10.0
# By how much queries and keys are larger than usual, so that attention tells tokens, and with them objects, apart.
# With more, a change in the last bit of a memory would grow from frame to frame until nothing can be compared.
SHARPNESS = 2.0
MATCHED_WEIGHTS = ("q_proj.weight", "k_proj.weight")
# Weights that are no matrices but vectors by number.
EMBEDDINGS = ("embeddings", "_token", "_tokens", "gaussian_matrix")
OUR_PARTS = {
    "encoder": "image_encoder",
    "memory attention": "memory_attention",
    "decoder": "mask_decoder",
    "memory encoder": "memory_encoder",
}
THEIR_PARTS = OUR_PARTS | {"encoder": "vision_encoder"}
DISTURBANCE = 1e-6


class FrameTracker(Protocol):
    """One way to track objects.

    Attributes:
        model: the network.
        parts: what is timed apart: a name → the submodule's.
        session: what remembers.
        side: of the frames, in pixels.
    """

    model: nn.Module
    parts: Mapping[str, str]
    session: Any
    side: int

    def step(self, pixel_values: Tensor) -> Tensor:
        """Take the next frame, 1×3×side×side, and give the mask logits of all objects, N×side/4×side/4."""


def small_config() -> SamVariantsVideoConfig:
    """The configuration with tiny dimensions."""
    return SamVariantsVideoConfig(**copy.deepcopy(SMALL_MODEL))


def preset_config(preset: str, image_size: int | None = None) -> SamVariantsVideoConfig:
    """A preset that tracks, at another input size if one is given.

    Raises:
        ValueError: for another preset or a size that doesn't fit it.
    """
    known = [name for name in PRESETS if isinstance(config_for(name), SamVariantsVideoConfig)]
    if preset not in known:
        raise ValueError(f"preset={preset!r} is no model that tracks; choose one of {', '.join(known)}")
    return sized_config(preset, image_size)


@torch.no_grad()
def random_model(config: SamVariantsVideoConfig, device: str = "cpu", seed: int = 0) -> SamVariantsVideoModel:
    """A float32 model in which every weight matters: none is zero or one, and objects stay visible.

    Holes are left as they are, because transformers' model doesn't fill them.
    """
    config.fill_hole_area = 0
    model = SamVariantsVideoModel(config).float()
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim < 2:
            noise = 0.1 * noise + float(name.endswith("weight"))
        elif not name.removesuffix(".weight").rstrip(".0123456789").endswith(EMBEDDINGS):
            noise *= max(tensor[0].numel(), 16) ** -0.5
        tensor.copy_(noise * SHARPNESS if name.endswith(MATCHED_WEIGHTS) else noise)
    head: Any = model.mask_decoder.pred_obj_score_head
    head.layers[-1].bias += VISIBLE_SCORE
    return model.to(device).eval()


def at_size(model: SamVariantsVideoModel, config: SamVariantsVideoConfig) -> SamVariantsVideoModel:
    """A model with the same weights and another configuration."""
    config.fill_hole_area = model.config.fill_hole_area
    other = SamVariantsVideoModel(config)
    nn.Module.to(other, model.device)
    other.load_state_dict(model.state_dict())
    return other.eval()


def transformers_model(model: SamVariantsVideoModel) -> Any:
    """transformers' `Sam2VideoModel` with our weights, every one of which must find its place."""
    layout: Any = LAYOUTS[TRANSFORMERS_LAYOUT]
    theirs = Sam2VideoModel(layout.config_to(model.config)).float()
    theirs.load_state_dict(export_state_dict(model, TRANSFORMERS_LAYOUT))
    return theirs.to(model.device).eval()


def click(number: int, side: int) -> list[float]:
    """Where object `number` is clicked, spread over a square input."""
    spread = np.random.default_rng(number).uniform(0.1, 0.9, 2)
    return (spread * side).tolist()


def random_frames(side: int, device: str, seed: int = 0) -> Iterator[Tensor]:
    """Endless frames of noise, 1×3×side×side; how long a frame takes doesn't depend on what it shows."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randn(1, 3, side, side, generator=generator).to(device)


class OurTracker:
    """A session of ours that gives its small logits, as transformers' does.

    Args:
        model: `random_model`'s.
        num_objects: each clicked once on the first frame.
        objects_per_pass: how many objects go through memory attention and decoder at once.
    """

    parts: Mapping[str, str] = OUR_PARTS

    def __init__(self, model: SamVariantsVideoModel, num_objects: int, objects_per_pass: int = 16) -> None:
        self.model: nn.Module = model
        self.side: int = model.config.image_size  # type: ignore[assignment]
        self.session: Any = NamedTracker(model, processor_for(model), objects_per_pass=objects_per_pass)
        for number in range(num_objects):
            self.session.add_object(number, points=[click(number, self.side)])

    def step(self, pixel_values: Tensor) -> Tensor:
        return self.session.step(PreparedFrame(pixel_values, (self.side, self.side))).pred_masks[:, 0]


class TheirTracker:
    """transformers' session, which takes its frames one by one too.

    Args:
        model: `transformers_model`'s.
        num_objects: each clicked once on the first frame.
    """

    parts: Mapping[str, str] = THEIR_PARTS

    def __init__(self, model: Any, num_objects: int) -> None:
        self.model: nn.Module = model
        self.side: int = model.config.image_size
        device = next(model.parameters()).device
        self.session: Any = Sam2VideoInferenceSession(
            inference_device=device, inference_state_device=device, video_storage_device=device, dtype=torch.float32
        )
        for number in range(num_objects):
            points = torch.tensor(click(number, self.side)).reshape(1, 1, 1, 2)
            inputs = {"point_coords": points, "point_labels": torch.ones(1, 1, 1, dtype=torch.int64)}
            self.session.add_point_inputs(self.session.obj_id_to_idx(number), 0, inputs)
        self.session.obj_with_new_inputs = list(range(num_objects))

    def step(self, pixel_values: Tensor) -> Tensor:
        return self.model(inference_session=self.session, frame=pixel_values[0]).pred_masks[:, 0]


class DisturbedTracker:
    """A tracker whose frames differ from what they should be by a millionth; shows how much rounding can do.

    Args:
        tracker: takes the frames.
    """

    def __init__(self, tracker: FrameTracker) -> None:
        self.tracker = tracker
        self.model, self.parts = tracker.model, tracker.parts
        self.session, self.side = tracker.session, tracker.side
        self.generator = torch.Generator().manual_seed(1)

    def step(self, pixel_values: Tensor) -> Tensor:
        noise = torch.randn(pixel_values.shape, generator=self.generator).to(pixel_values.device)
        return self.tracker.step(pixel_values * (1 + DISTURBANCE * noise))
