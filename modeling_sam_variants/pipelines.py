"""`pipeline("promptable-segmentation")`: images and prompts in, `Masks` out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers.pipelines.pt_utils import PipelineDataset, PipelineIterator

from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.pipeline_base import SamVariantsPipeline, is_ours
from sam_variants.pipeline_requests import Request, join_requests, prepare_request, read_requests
from sam_variants.pretrained_part import evaluating
from sam_variants.processing.image_fitting import SQUARE
from sam_variants.processing.processing_sam_variants import SamVariantsProcessor
from sam_variants.results import Masks

# Objects that the mask decoder takes at once: each holds its own copy of the image embedding in memory.
OBJECTS_PER_PASS = 64


class PromptableSegmentationPipeline(SamVariantsPipeline):
    """Masks for points, boxes and rough masks, with any model of this package.

    A model that the pipeline loaded itself is fused for inference; one that was passed as an object stays as it is.

    Args:
        model: a `SamVariantsModel`, for video or not; `pipeline("promptable-segmentation")` takes a folder or Hub
            repository, or nothing for the embedded checkpoint.
        processor: the `SamVariantsProcessor` for this model; None makes the one that belongs to it.
        kwargs: as for every pipeline of transformers: `device`, `batch_size`, `num_workers`, …; `multimask` sets the
            default of the calls.

    Raises:
        TypeError: for a model of another package.
        ValueError: for a processor that doesn't fit the model.
    """

    model: SamVariantsModel

    def __init__(self, model: SamVariantsModel, processor: SamVariantsProcessor | None = None, **kwargs: Any) -> None:
        if not is_ours(model):
            raise TypeError(
                f"model is a {type(model).__name__}; this pipeline takes a SamVariantsModel, which "
                'sam_variants.load_checkpoint("path or repository") makes of other checkpoints'
            )
        super().__init__(model=model, processor=processor, **kwargs)

    def __call__(  # type: ignore[override]
        self,
        image: Any,
        points: Any = None,
        labels: Any = None,
        boxes: Any = None,
        masks: Any = None,
        multimask: bool | None = None,
        *,
        batch_size: int | None = None,
        num_workers: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Segment the prompted objects of one image or many.

        By default every object gets one mask: for a single click, which may mean a part or the whole, the best of the
        model's three candidates by predicted quality, and else (several points, a box or a rough mask) its single
        answer. That is how segment-anything's `SamPredictor.predict` says to use it.

        Args:
            image: a PIL image, array, tensor, path or URL; a list of these; a dict of an "image" and its prompts by
                the names below; or a list, dataset or generator of such dicts.
            points: (x, y) in pixels of the original image: one point, a list of points of one object, or a list of
                such lists, one per object.
            labels: one per point: 1 on the object (the default), 0 off it.
            boxes: (x1, y1, x2, y2): one, or one per object.
            masks: rough masks at the image's size (bool or integer) or logits at the prompt encoder's: one, or one
                per object. Points, boxes and masks of one object belong together by index. For a list of several
                images, points, labels, boxes and masks have one entry per image.
            multimask: True returns every candidate: the first three masks are those of the first object, best first,
                and so on.
            batch_size: images encoded at once, for a list, dataset or generator.
            num_workers: processes that read images ahead.

        Returns:
            A `Masks` with `scores` (predicted IoU) and, where there are any, `points`, in the order of the objects. A
            list gives a list of them, a dataset or generator an iterator.

        Raises:
            ValueError: no prompts, or ones that don't fit the image; an image that can't be read.
            TypeError: an argument of a wrong kind.
        """
        prompts = {"points": points, "labels": labels, "boxes": boxes, "masks": masks}
        if multimask is not None:
            kwargs["multimask"] = multimask
        requests = read_requests(image, prompts)
        return super().__call__(requests, batch_size=batch_size, num_workers=num_workers, **kwargs)

    def _sanitize_parameters(
        self, multimask: bool | None = None, local_files_only: bool | None = None, **unknown: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """`local_files_only` is what `pipeline()` leaves here after it has used it."""
        if unknown:
            raise TypeError(
                f"the pipeline has no arguments {sorted(unknown)}; a call takes points, labels, boxes, masks, "
                "multimask, batch_size and num_workers"
            )
        return {}, {} if multimask is None else {"multimask": multimask}, {}

    def preprocess(self, input_: Request, **preprocess_parameters: Any) -> dict[str, Any]:
        return prepare_request(input_, self.processor)

    def _forward(  # type: ignore[override]
        self, input_tensors: Mapping[str, Any], multimask: bool = False
    ) -> dict[str, Any]:
        prompts, single_click = input_tensors["prompts"], input_tensors["single_click"]
        with evaluating(self.model):
            pixel_values = input_tensors["pixel_values"].to(self.model.image_encoder.dtype)
            embeddings = self.model.get_image_embeddings(pixel_values)
            answers = [
                self._answer(
                    embeddings,
                    {name: prompt[:, start : start + OBJECTS_PER_PASS] for name, prompt in prompts.items()},
                    single_click[:, start : start + OBJECTS_PER_PASS],
                    multimask,
                )
                for start in range(0, single_click.shape[1], OBJECTS_PER_PASS)
            ]
        logits, scores = (torch.cat(parts, dim=1) for parts in zip(*answers, strict=True))
        kept = ("original_sizes", "reshaped_input_sizes", "points", "num_objects")
        return {"logits": logits, "scores": scores, **{name: input_tensors[name] for name in kept}}

    def _answer(
        self, embeddings: Any, prompts: Mapping[str, Tensor], single_click: Tensor, multimask: bool
    ) -> tuple[Tensor, Tensor]:
        """Logits B×P×M×h×w and scores B×P×M, the best of each object first; M is 1 unless `multimask`."""
        if multimask or single_click.any():
            logits, scores = self._decode(embeddings, prompts, multimask_output=True)
            order = scores.argsort(dim=-1, descending=True)[..., : None if multimask else 1]
            logits, scores = logits.take_along_dim(order[..., None, None], dim=2), scores.take_along_dim(order, dim=2)
            if multimask or single_click.all():
                return logits, scores
            single_logits, single_scores = self._decode(embeddings, prompts, multimask_output=False)
            return (
                torch.where(single_click[..., None, None, None], logits, single_logits),
                torch.where(single_click[..., None], scores, single_scores),
            )
        return self._decode(embeddings, prompts, multimask_output=False)

    def _decode(self, embeddings: Any, prompts: Mapping[str, Tensor], multimask_output: bool) -> tuple[Tensor, Tensor]:
        outputs = self.model(image_embeddings=embeddings, multimask_output=multimask_output, **prompts)
        return outputs.pred_masks, outputs.iou_scores

    def postprocess(self, model_outputs: Mapping[str, Any], **postprocess_parameters: Any) -> list[Masks]:
        """One `Masks` per image of the batch."""
        image_processor = self.processor.image_processor
        is_padded = image_processor.resize_mode != SQUARE
        input_size = image_processor.covered_size(model_outputs["logits"].shape)
        results = []
        for index, num_objects in enumerate(model_outputs["num_objects"]):
            logits, scores = (model_outputs[name][index, :num_objects] for name in ("logits", "scores"))
            points = model_outputs["points"][index]
            masks = Masks.from_logits(
                logits.flatten(0, 1),
                model_outputs["original_sizes"][index],
                model_outputs["reshaped_input_sizes"][index] if is_padded else None,
                input_size if is_padded else None,
                self.model.config.mask_threshold,
                scores=scores.flatten(),
                points=None if points is None else points.repeat_interleave(scores.shape[1], dim=0),
            )
            results.append(masks)
        return results

    def run_single(
        self,
        inputs: Request,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> Masks:
        batch = join_requests([self.preprocess(inputs, **preprocess_params)])
        return self.postprocess(self.forward(batch, **forward_params), **postprocess_params)[0]

    def get_iterator(
        self,
        inputs: Any,
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> Iterator[Masks]:
        """transformers' own pads prompts with zeros, which are prompts; this one joins requests as they need it."""
        if isinstance(inputs, Sized):
            requests: Any = PipelineDataset(inputs, self.preprocess, preprocess_params)
        else:
            requests = PipelineIterator(inputs, self.preprocess, preprocess_params)
            num_workers = min(num_workers, 1)
        loader = DataLoader(requests, batch_size=batch_size, num_workers=num_workers, collate_fn=join_requests)
        return self._results(loader, forward_params, postprocess_params)

    def _results(
        self, loader: DataLoader, forward_params: dict[str, Any], postprocess_params: dict[str, Any]
    ) -> Iterator[Masks]:
        for batch in loader:
            yield from self.postprocess(self.forward(batch, **forward_params), **postprocess_params)
