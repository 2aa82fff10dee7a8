"""`pipeline("promptable-video-segmentation")`: a video and prompts in, `Masks` of every frame out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sam_variants.configuration.configuration_sam_variants import SamVariantsConfig
from sam_variants.configuration.configuration_sam_variants_video import SamVariantsVideoConfig
from sam_variants.frame_prompts import read_frame_prompts
from sam_variants.modeling_sam_variants_video import SamVariantsVideoModel
from sam_variants.pipeline_base import SamVariantsPipeline
from sam_variants.processing.processing_sam_variants import SamVariantsProcessor
from sam_variants.results import Masks
from sam_variants.video_session import VideoSession

EXAMPLE_CHECKPOINT = 'sam_variants.load_checkpoint("facebook/sam2.1-hiera-tiny")'


class PromptableVideoSegmentationPipeline(SamVariantsPipeline):
    """Tracks prompted objects through a video, with any model of this package that has a memory.

    Frames are read, tracked and given back one at a time, so a video of any length takes the same memory. A model
    that the pipeline loaded itself is fused for inference; one that was passed as an object stays as it is.

    Args:
        model: a `SamVariantsVideoModel`; `pipeline("promptable-video-segmentation", model=…)` takes a folder or Hub
            repository too.
        processor: the `SamVariantsProcessor` for this model; None makes the one that belongs to it.
        kwargs: as for every pipeline of transformers: `device`, …; `keep_frames`, `num_frames` and `objects_per_pass`
            set the defaults of the calls.

    Raises:
        TypeError: for a model of another package, or one for images only.
        ValueError: for a processor that doesn't fit the model.
    """

    model: SamVariantsVideoModel

    def __init__(
        self, model: SamVariantsVideoModel, processor: SamVariantsProcessor | None = None, **kwargs: Any
    ) -> None:
        check_can_track(model)
        super().__init__(model=model, processor=processor, **kwargs)

    def __call__(self, video: Any, prompts: Any = None, **options: Any) -> Iterator[Masks]:  # type: ignore[override]
        """Track objects through one video.

        Args:
            video: a file or URL, a folder of images, an array or tensor T×H×W×3, or an iterable of images (of numpy
                arrays, PIL images, paths, …), which may be endless.
            prompts: frame index → object id → what is known of the object on that frame: `points` (x, y) in pixels of
                the frame, `labels` (1 on the object, the default, 0 off it), `boxes` (x1, y1, x2, y2), or a `mask` at
                the frame's size. An object begins on its first prompted frame; prompts on later frames correct it.
                Keys may be strings, as JSON has them.
            options: `num_frames` (length of the video, if it is to be computed as the official predictor computes
                videos shorter than 16 frames), `objects_per_pass` and `keep_frames`, see `VideoSession`.

        Returns:
            An iterator over the frames' `Masks` with `frame_index`, `object_ids`, `scores` (predicted IoU) and
            `object_score_logits` (above 0 where the object is visible). Nothing is computed before it is asked for.

        Raises:
            FileNotFoundError: when there is no such file or folder.
            ValueError: no prompts or ones that can't be; while iterating, ones that don't fit the frame or lie behind
                the end, and a video that can't be read to its end.
            TypeError: an argument of a wrong kind.
        """
        if prompts is None:
            raise ValueError('give prompts, as in pipe(video, prompts={0: {1: {"points": [[320, 240]]}}})')
        _, forward_params, _ = self._sanitize_parameters(**options)
        inputs = self.preprocess({"video": video, "prompts": prompts})
        return self.postprocess(self._forward(inputs, **self._forward_params | forward_params))

    def _sanitize_parameters(
        self,
        keep_frames: int | None = None,
        num_frames: int | None = None,
        objects_per_pass: int | None = None,
        local_files_only: bool | None = None,
        **unknown: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """`local_files_only` is what `pipeline()` leaves here after it has used it."""
        if unknown:
            raise TypeError(
                f"the pipeline has no arguments {sorted(unknown)}; a call takes prompts, keep_frames, num_frames and "
                "objects_per_pass"
            )
        options = {"keep_frames": keep_frames, "num_frames": num_frames, "objects_per_pass": objects_per_pass}
        return {}, {name: value for name, value in options.items() if value is not None}, {}

    def preprocess(self, input_: Mapping[str, Any], **preprocess_parameters: Any) -> dict[str, Any]:
        return {"video": input_["video"], "prompts": read_frame_prompts(input_["prompts"])}

    def _forward(  # type: ignore[override]
        self, input_tensors: Mapping[str, Any], **options: Any
    ) -> Iterator[Masks]:
        session = self.model.start_session(self.processor, **options)
        return self._tracked(session, session.track(input_tensors["video"], input_tensors["prompts"]))

    @staticmethod
    def _tracked(session: VideoSession, frames: Iterator[Masks]) -> Iterator[Masks]:
        """The frames; whoever stops early frees the session with the iterator."""
        with session:
            yield from frames

    def postprocess(  # type: ignore[override]
        self, model_outputs: Iterator[Masks], **postprocess_parameters: Any
    ) -> Iterator[Masks]:
        return model_outputs


def check_can_track(model: Any) -> None:
    """Raise TypeError for a model without a memory, with the call that gives one."""
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    if model_type == SamVariantsVideoConfig.model_type:
        return
    if model_type == SamVariantsConfig.model_type:
        raise TypeError(
            f"model is a {type(model).__name__}, which segments images and has no memory; one that can track is "
            f"{EXAMPLE_CHECKPOINT}, or load_checkpoint of any SAM 2 checkpoint"
        )
    raise TypeError(
        f"model is a {type(model).__name__}; this pipeline takes a SamVariantsVideoModel, for example "
        f"{EXAMPLE_CHECKPOINT}"
    )
