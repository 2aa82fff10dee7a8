"""What the models return."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class ImageEncoderOutput(ModelOutput):
    """Output of every image encoder.

    Attributes:
        last_hidden_state: image embedding, B×out_chans×H/stride×W/stride.
        high_resolution_features: maps at a quarter and half of the stride, finest first, for encoders that give them.
        hidden_states: input of the first block and output of every block, when asked for.
        attentions: attention probabilities of every block, when asked for (eager attention).
    """

    last_hidden_state: Tensor | None = None
    high_resolution_features: tuple[Tensor, ...] | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class MemoryEncoderOutput(ModelOutput):
    """Output of the memory encoder.

    Attributes:
        memory_features: what is remembered of each object, P×out_dim×h×w.
        memory_position: position encoding of its cells, of the same size.
    """

    memory_features: Tensor | None = None
    memory_position: Tensor | None = None


@dataclass
class SamVariantsOutput(ModelOutput):
    """Output of the promptable models.

    Attributes:
        loss: scalar, when labels are given.
        pred_masks: mask logits, B×P×M×h×w at a quarter of the input's size, for P objects with M masks each.
        iou_scores: predicted IoU of every mask, B×P×M.
        object_score_logits: B×P×1, above 0 when the object is visible; None for decoders without such a score.
        vision_hidden_states: hidden states of the image encoder, when asked for.
        vision_attentions: its attention probabilities, when asked for (eager attention).
        mask_decoder_attentions: those of the mask decoder.
    """

    loss: Tensor | None = None
    iou_scores: Tensor | None = None
    pred_masks: Tensor | None = None
    object_score_logits: Tensor | None = None
    vision_hidden_states: tuple[Tensor, ...] | None = None
    vision_attentions: tuple[Tensor, ...] | None = None
    mask_decoder_attentions: tuple[Tensor, ...] | None = None
