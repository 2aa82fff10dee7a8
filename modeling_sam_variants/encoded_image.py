"""Images that were encoded once and then answer any number of single points: the model's side of mask generation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sam_variants.decoders.image_side import ImageSide
from sam_variants.layers.sending import sent
from sam_variants.layers.token_linear import is_untouched
from sam_variants.mask_generation.encoded_crop import Candidates
from sam_variants.mask_regions import clean_masks
from sam_variants.mask_runs import MaskGeometry
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.pretrained_part import evaluating
from sam_variants.processing.coordinates import apply_coords
from sam_variants.processing.image_fitting import SQUARE
from sam_variants.processing.image_processing_sam_variants import SamVariantsImageProcessorPil

# SAM 2 cuts masks that it gets back as prompts to this range of logits.
MASK_PROMPT_LIMIT = 32.0
# A mask prompt becomes an image embedding of its own: a few at once.
MASK_PROMPTS_AT_ONCE = 16


class EncodedImage:
    """One encoded image (or crop), see `EncodedCrop`.

    Args:
        model: the model, on its device.
        levels: what `get_image_embeddings` returned for this image alone, finest level first.
        geometry: how the decoder's logits become pixels of the image.
        reshaped_size: (height, width) of the image inside the model's input.
        max_hole_area, max_sprinkle_area: holes filled and specks removed in every mask, in cells of the logits.
        mask_threshold: logit above which a cell belongs to the mask, for these two.
        points_at_once: points that the decoder takes together where it has to repeat the image for each.
    """

    def __init__(
        self,
        model: SamVariantsModel,
        levels: Sequence[Tensor],
        geometry: MaskGeometry,
        reshaped_size: tuple[int, int],
        max_hole_area: float = 0.0,
        max_sprinkle_area: float = 0.0,
        mask_threshold: float = 0.0,
        points_at_once: int = 64,
    ) -> None:
        self.geometry = geometry
        self._model = model
        *self._skips, self._embedding = levels
        self._reshaped_size = reshaped_size
        self._clean = (max_hole_area, max_sprinkle_area, mask_threshold)
        self._points_at_once = points_at_once
        self._side: ImageSide | None = None

    @torch.no_grad()
    def decode(self, points: np.ndarray, score_threshold: float | None, multimask_output: bool = True) -> Candidates:
        """Propose masks for each point alone; only those above the threshold are ever upscaled.

        Args:
            points: K×2 (x, y) in pixels of the image, each one object's only foreground point.
            score_threshold: only masks whose predicted IoU is above; None for all.
            multimask_output: the masks for an ambiguous point instead of the single one.

        Returns:
            `Candidates`, point by point.

        Raises:
            ValueError: the model's scores are NaN.
        """
        inputs = self._point_inputs(points)
        with evaluating(self._model):
            decoder = self._model.mask_decoder
            chooses_by_stability = not multimask_output and decoder.config.dynamic_multimask_via_stability
            # A point comes with one padding token, or with none; hooks of the decoder are called with the whole of it.
            is_foldable = is_untouched(decoder) and decoder.is_foldable(decoder.num_output_tokens + 2)
            if chooses_by_stability or not is_foldable:
                return self._decode_plainly(inputs, score_threshold, multimask_output, self._points_at_once)
            return self._decode_folded(inputs, score_threshold, multimask_output)

    @torch.no_grad()
    def refine(self, points: np.ndarray, logits: Tensor, score_threshold: float | None) -> Candidates:
        """Give each point its mask back as a prompt and take the single mask (`refine_with_m2m` of SAM 2).

        Args:
            points: K×2 (x, y) in pixels of the image.
            logits: K×h×w at the decoder's resolution.
            score_threshold: only masks whose predicted IoU is above; None for all.

        Returns:
            `Candidates`, at most one for each point.

        Raises:
            ValueError: the model's scores are NaN.
        """
        prompts = logits.to(self._embedding.device).clamp(-MASK_PROMPT_LIMIT, MASK_PROMPT_LIMIT)
        inputs = {**self._point_inputs(points), "input_masks": prompts[None]}
        with evaluating(self._model):
            return self._decode_plainly(inputs, score_threshold, False, MASK_PROMPTS_AT_ONCE)

    def _point_inputs(self, points: np.ndarray) -> dict[str, Tensor]:
        """The model's arguments for K objects of one point each."""
        scaled = apply_coords(np.asarray(points, dtype=np.float64), self.geometry.size, self._reshaped_size)
        tensor = sent(torch.from_numpy(scaled).float(), self._embedding.device)[None, :, None]
        return {"input_points": tensor, "input_labels": torch.ones_like(tensor[..., 0], dtype=torch.long)}

    def _decode_folded(
        self, inputs: dict[str, Tensor], score_threshold: float | None, multimask_output: bool
    ) -> Candidates:
        model, embedding = self._model, self._embedding
        prompt = model.prompt_encoder.encode_objects(
            inputs["input_points"][0], inputs["input_labels"][0], None, None, embedding
        )
        if self._side is None:
            pe = model.prompt_encoder.get_dense_pe((embedding.shape[2], embedding.shape[3]))
            self._side = ImageSide(
                model.mask_decoder, embedding, pe, prompt.dense[:1].to(embedding.dtype), self._skips or None
            )
        tokens = model.mask_decoder.prompt_tokens(prompt.sparse, len(prompt.dense), embedding.device)
        found = []
        for group, answers in self._side.answer_groups(tokens):
            chosen = slice(1, None) if multimask_output else slice(0, 1)
            scores = answers.iou_scores[:, chosen].float().cpu()  # the one wait of a group: all choices are made here
            is_kept = self._is_kept(scores, score_threshold)
            prompts, masks = is_kept.nonzero(as_tuple=True)
            logits = self._side.upscale(answers, prompts, masks + chosen.start)
            found.append((prompts + group.start, scores[is_kept], logits))
        return self._candidates(found)

    def _decode_plainly(
        self,
        inputs: dict[str, Tensor],
        score_threshold: float | None,
        multimask_output: bool,
        objects_at_once: int,
    ) -> Candidates:
        found = []
        for start in range(0, inputs["input_points"].shape[1], objects_at_once):
            chunk = {name: tensor[:, start : start + objects_at_once] for name, tensor in inputs.items()}
            outputs: Any = self._model(
                image_embeddings=[*self._skips, self._embedding], multimask_output=multimask_output, **chunk
            )
            scores = outputs.iou_scores[0].float().cpu()
            is_kept = self._is_kept(scores, score_threshold)
            prompts, masks = is_kept.nonzero(as_tuple=True)
            logits = outputs.pred_masks[0]
            places = sent(prompts, logits.device), sent(masks, logits.device)
            found.append((prompts + start, scores[is_kept], logits[places]))
        return self._candidates(found)

    def _is_kept(self, scores: Tensor, threshold: float | None) -> Tensor:
        # NaN is above no threshold: without this, broken weights would look like an image without masks.
        if scores.isnan().any():
            dtype = self._model.image_encoder.dtype
            raise ValueError(f"the model's scores are NaN: its weights hold NaN or infinity, or overflow in {dtype}")
        return torch.ones_like(scores, dtype=torch.bool) if threshold is None else scores > threshold

    def _candidates(self, found: list[tuple[Tensor, Tensor, Tensor]]) -> Candidates:
        prompts, scores, logits = (torch.cat(parts) for parts in zip(*found, strict=True))
        return Candidates(prompts, scores, clean_masks(logits.float(), *self._clean))


@torch.no_grad()
def encode_images(
    model: SamVariantsModel,
    image_processor: SamVariantsImageProcessorPil,
    images: Sequence[np.ndarray],
    max_hole_area: float = 0.0,
    max_sprinkle_area: float = 0.0,
    mask_threshold: float = 0.0,
    points_at_once: int = 64,
) -> list[EncodedImage]:
    """Encode images (or crops) of any sizes in one batch.

    Args:
        model: a `SamVariantsModel`.
        image_processor: the one that belongs to it.
        images: H×W×3 uint8 each.
        max_hole_area, max_sprinkle_area, mask_threshold, points_at_once: as in `EncodedImage`.

    Returns:
        One `EncodedImage` each.
    """
    batch = image_processor(images=list(images), return_tensors="pt")
    with evaluating(model):
        # The encoder may work in another precision than the rest, see `encode_in`.
        encoded = model.get_image_embeddings(sent(batch["pixel_values"], model.device, model.image_encoder.dtype))
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is not None and accelerator.type == model.device.type:
        torch.accelerator.synchronize(model.device)  # or else the time of encoding shows up as that of the decoder
    levels = [encoded] if isinstance(encoded, Tensor) else list(encoded)
    is_padded = image_processor.resize_mode != SQUARE
    input_size = (batch["pixel_values"].shape[2], batch["pixel_values"].shape[3])
    results = []
    for index, image in enumerate(images):
        height, width = batch["reshaped_input_sizes"][index].tolist()
        geometry = MaskGeometry(
            image.shape[:2], (height, width) if is_padded else None, input_size if is_padded else None
        )
        results.append(
            EncodedImage(
                model,
                [level[index : index + 1] for level in levels],
                geometry,
                (height, width),
                max_hole_area,
                max_sprinkle_area,
                mask_threshold,
                points_at_once,
            )
        )
    return results
