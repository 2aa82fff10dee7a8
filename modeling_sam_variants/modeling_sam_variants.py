"""The promptable model: any image encoder with prompt encoder and mask decoder."""

from collections.abc import Sequence
from typing import Any, Self, Unpack

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils import TransformersKwargs
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from sam_variants.configuration.configuration_sam_variants import SamVariantsConfig
from sam_variants.decoders.mask_decoder import DecodedMasks, MaskDecoder
from sam_variants.decoders.prompt_encoder import PADDING_COORDINATE, PADDING_LABEL, PromptEncoder
from sam_variants.encoders.encoder_table import build_image_encoder
from sam_variants.layers.attention_core import AttentionCore
from sam_variants.losses import segmentation_loss
from sam_variants.outputs import ImageEncoderOutput, SamVariantsOutput
from sam_variants.pretrained_part import IMAGE_PARTS, PretrainedPart, other_parts
from sam_variants.prompt_checks import check_padding, check_prompts


class SamVariantsModel(PretrainedPart):
    """Segment Anything (Kirillov et al., 2023) and its variants, composed by configuration alone.

    Parameter names are the official ones: `image_encoder.*`, `prompt_encoder.*`, `mask_decoder.*`. A padded prompt
    gives exactly what it gives alone, because padding takes part in no attention.

    Args:
        config: the composed configuration; `config_for("mobile-sam")` gives a published one.
    """

    config: SamVariantsConfig
    base_model_prefix = ""
    _keys_to_ignore_on_load_unexpected = other_parts(*IMAGE_PARTS)
    _no_split_modules = [
        "TinyViTConvolutionalLayer",
        "TinyViTTransformerLayer",
        "ViTLayer",
        "HieraLayer",
        "TwoWayAttentionBlock",
    ]
    _can_record_outputs = {"mask_decoder_attentions": OutputRecorder(AttentionCore, index=1)}

    def __new__(cls, config: SamVariantsConfig | None = None, *args: Any, **kwargs: Any) -> "SamVariantsModel":
        """A configuration of the video model builds the video model, which is one of these too."""
        # Copying and unpickling come without a configuration. Exporting makes subclasses that take the same one.
        if config is None or _takes(cls, config):
            return super().__new__(cls)
        return super().__new__(next((kind for kind in cls.__subclasses__() if _takes(kind, config)), cls))

    def __init__(self, config: SamVariantsConfig) -> None:
        super().__init__(config)
        self._build_image_parts(config)
        self.post_init()

    def _build_image_parts(self, config: SamVariantsConfig) -> None:
        """What every model of the family has, for images and for video."""
        parts: Any = config
        self.image_encoder = build_image_encoder(parts.vision_config)
        self.prompt_encoder = PromptEncoder(parts.prompt_encoder_config)
        self.mask_decoder = MaskDecoder(parts.mask_decoder_config)
        width = parts.vision_config.out_chans
        self.no_mem_embed = nn.Parameter(torch.zeros(1, 1, width)) if config.use_no_mem_embed else None

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, SamVariantsModel) and module.no_mem_embed is not None:
            init.trunc_normal_(module.no_mem_embed, std=self.config.initializer_range)

    def get_input_embeddings(self) -> nn.Module:
        return self.image_encoder.get_input_embeddings()

    def get_image_embeddings(self, pixel_values: Tensor, **kwargs: Unpack[TransformersKwargs]) -> Tensor | list[Tensor]:
        """Encode images once, for any number of prompts.

        Args:
            pixel_values: B×3×H×W from the processor.

        Returns:
            B×C×H/stride×W/stride; for a decoder with skip connections a list of maps, finest first, the embedding last.
            Pass it to the model as `image_embeddings`.
        """
        return self._embeddings_of(self._encode(pixel_values, **kwargs))

    def _encode(self, pixel_values: Tensor, **kwargs: Any) -> ImageEncoderOutput:
        """What the image encoder says of images, whose padding may be left out if the configuration says so."""
        check_padding(pixel_values, self.config)
        if not self.config.pad_input:
            kwargs["frame_size"] = (self.config.image_size, self.config.image_size)
        if isinstance(pixel_values, Tensor) and pixel_values.is_floating_point():
            pixel_values = pixel_values.to(self.image_encoder.dtype)  # see `encode_in`
        return self.image_encoder(pixel_values, **kwargs)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of prompts and masks; that of the image encoder may be another, see `encode_in`."""
        return self.mask_decoder.dtype

    def encode_in(self, dtype: torch.dtype) -> Self:
        """Let the image encoder work in another precision; prompts, mask decoder and memory keep theirs.

        Masks hardly notice bfloat16 there, where nearly all of the work is done once per image, but do in the decoder.
        Images may come as they are. A saved model is loaded in the decoder's precision, the encoder's values rounded.

        Args:
            dtype: for example `torch.bfloat16`.

        Returns:
            The model itself.
        """
        nn.Module.to(self.image_encoder, dtype)
        return self

    def push_to_hub(  # type: ignore[override]
        self,
        repo_id: str,
        *,
        processor: Any = None,
        card: Any = None,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str | None = "50GB",
        tags: list[str] | str | None = None,
        license: str | None = None,
        base_model: str | None = None,
        datasets: list[str] | str | None = None,
        evaluation: Any = None,
    ) -> str:
        """Push weights, configuration, processor, card and checksums to the Hub, in one commit.

        The repository and the branch are created where they do not exist, shards of an earlier push are deleted, and a
        card that somebody wrote is kept. Nothing is committed when nothing has changed. Code of an earlier push is
        deleted too, unless this model was loaded with its code (`sam-variants push --with-code` adds it).

        Args:
            repo_id: `owner/name`, or a name of your own.
            processor: the model's; None makes the one that belongs to it.
            card: a `ModelCard`, in place of any other.
            commit_message, commit_description: of the commit.
            private: who sees a repository that is created; None leaves it to the Hub.
            token: None or True for that of `hf auth login` or HF_TOKEN.
            revision: branch to commit to.
            create_pr: open a pull request instead.
            max_shard_size: largest size of one weights file, as a number of bytes or such as "5GB".
            tags: further tags for the card.
            license: of the weights, such as "apache-2.0", or "unknown".
            base_model: what the weights come from: a repository on the Hub, or a preset.
            datasets: what it was trained on, as repositories on the Hub.
            evaluation: what an evaluation command wrote with --json about these weights, or a list of such reports.

        Returns:
            The address of the commit, a `CommitInfo`; when nothing has changed, of the one the repository stands at.

        Raises:
            TypeError: for a card that is none.
            ValueError: for a fused model, a processor of another input size, an evaluation of other weights, a
                repository of another model, and without a token.
            OSError: when the Hub refuses, or the repository was changed by someone else meanwhile.
        """
        from sam_variants.hub.push_model import push_model  # with cards and commits, which loading a model does without

        return push_model(
            self,
            repo_id,
            processor=processor,
            card=card,
            tags=[*(self.model_tags or []), *([tags] if isinstance(tags, str) else tags or [])],
            license=license,
            base_model=base_model,
            datasets=datasets,
            evaluation=evaluation,
            token=token,
            revision=revision,
            max_shard_size=max_shard_size,
            commit_message=commit_message,
            commit_description=commit_description,
            private=private,
            create_pr=create_pr,
        )

    def _embeddings_of(self, encoded: ImageEncoderOutput) -> Tensor | list[Tensor]:
        embedding, skips = self._decoder_maps(encoded)
        if self.no_mem_embed is not None:
            embedding = embedding + self.no_mem_embed.reshape(1, -1, 1, 1)
        return [*skips, embedding] if skips else embedding

    def _decoder_maps(self, encoded: ImageEncoderOutput) -> tuple[Tensor, list[Tensor]]:
        """The image embedding and the finer maps in the decoder's widths and precision."""
        maps: Any = [encoded.last_hidden_state, *(encoded.high_resolution_features or [])]
        if self.image_encoder.dtype != self.mask_decoder.dtype:
            maps = [level.to(self.mask_decoder.dtype) for level in maps]
        embedding, *skips = maps
        if self.config.mask_decoder_config.high_resolution_channels is None:
            return embedding, []
        return embedding, self.mask_decoder.project_high_resolution(skips)

    @capture_outputs
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_boxes: Tensor | None = None,
        input_masks: Tensor | None = None,
        image_embeddings: Tensor | Sequence[Tensor] | None = None,
        multimask_output: bool = True,
        labels: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SamVariantsOutput:
        """Predict masks for prompts; the processor makes all of these tensors.

        Args:
            pixel_values: images B×3×H×W; both sides multiples of the encoder's stride.
            input_points: B×P×N×2, x and y in pixels of the model's input, for P objects with N points each.
            input_labels: B×P×N: 1 include, 0 exclude, −1 not a point, −10 padding.
            input_boxes: B×P×4, x1, y1, x2, y2 in pixels of the model's input; −10 four times for no box.
            input_masks: mask logits B×P×h×w (four cells per cell of the image embedding); all NaN for no mask.
            image_embeddings: what `get_image_embeddings` returned, instead of `pixel_values`.
            multimask_output: three masks for an ambiguous prompt, instead of the single one.
            labels: ground-truth masks B×P×H'×W' over the model's input square; gives `loss`.

        Returns:
            `SamVariantsOutput`.

        Raises:
            ValueError: for wrong shapes or values, and for both or neither of images and embeddings.
        """
        if (pixel_values is None) == (image_embeddings is None):
            raise ValueError("pass either pixel_values or image_embeddings")
        encoded = ImageEncoderOutput()
        if image_embeddings is None:
            encoded = self._encode(pixel_values, **kwargs)  # type: ignore[arg-type]
            image_embeddings = self._embeddings_of(encoded)
        *skips, embedding = [image_embeddings] if isinstance(image_embeddings, Tensor) else list(image_embeddings)
        self._check_embeddings(skips, embedding)
        prompts = {
            "input_points": input_points,
            "input_labels": input_labels,
            "input_boxes": input_boxes,
            "input_masks": input_masks,
        }
        num_images = embedding.shape[0]
        num_objects = check_prompts(prompts, num_images) or 1
        is_object = self._is_object(prompts)
        decoded = self._predict(embedding, skips, prompts, num_images * num_objects, is_object, multimask_output)
        pred_masks, iou_scores, object_score_logits = (
            x.unflatten(0, (num_images, num_objects))
            for x in (decoded.masks, decoded.iou_scores, decoded.object_score_logits)
        )
        scores = object_score_logits if self.config.mask_decoder_config.pred_obj_scores else None
        loss = None
        if labels is not None:
            loss = segmentation_loss(pred_masks, iou_scores, labels, is_object, object_score_logits=scores)
        return SamVariantsOutput(
            loss=loss,
            iou_scores=iou_scores,
            pred_masks=pred_masks,
            object_score_logits=scores,
            vision_hidden_states=encoded.hidden_states,
            vision_attentions=encoded.attentions,
        )

    def _check_embeddings(self, skips: list[Tensor], embedding: Tensor) -> None:
        width = self.config.vision_config.out_chans
        wanted_skips = 0 if self.config.mask_decoder_config.high_resolution_channels is None else 2
        if len(skips) != wanted_skips or embedding.ndim != 4 or embedding.shape[1] != width:
            raise ValueError(
                f"image_embeddings has shape {tuple(embedding.shape)} behind {len(skips)} finer maps, expected "
                f"batch×{width}×height×width behind {wanted_skips}: pass what get_image_embeddings returned"
            )

    def _predict(
        self,
        embedding: Tensor,
        skips: list[Tensor],
        prompts: dict[str, Tensor | None],
        num_objects: int,
        is_object: Tensor | None,
        multimask_output: bool,
    ) -> DecodedMasks:
        """What the decoder says of all objects of all images."""
        points, point_labels, boxes, masks = (
            None if prompt is None else prompt.flatten(0, 1) for prompt in prompts.values()
        )
        size = (embedding.shape[2], embedding.shape[3])
        prompt = self.prompt_encoder.encode_objects(
            points, point_labels, boxes, None if masks is None else masks[:, None], embedding
        )
        return self.mask_decoder(
            embedding,
            self.prompt_encoder.get_dense_pe(size).to(embedding.dtype),
            prompt.sparse,
            prompt.dense.expand(num_objects, -1, -1, -1),
            multimask_output,
            high_resolution_features=skips or None,
            token_mask=prompt.token_mask,
            is_object=None if is_object is None else is_object.flatten(),
        )

    @staticmethod
    def _is_object(prompts: dict[str, Tensor | None]) -> Tensor | None:
        """B×P bool: which objects have any prompt; None when there are no prompts."""
        _, labels, boxes, masks = prompts.values()
        found = []
        if labels is not None:
            found.append((labels != PADDING_LABEL).any(dim=-1))
        if boxes is not None:
            found.append((boxes != PADDING_COORDINATE).any(dim=-1))
        if masks is not None:
            found.append(~masks.isnan().flatten(2).all(dim=-1))
        return torch.stack(found).any(dim=0) if found else None


def _takes(kind: type[SamVariantsModel], config: SamVariantsConfig) -> bool:
    """Whether a class is the one for a configuration."""
    config_class: Any = kind.config_class
    return config_class.model_type == config.model_type
