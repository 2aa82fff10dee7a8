"""The mask decoder: image embedding and prompts become masks with their predicted quality."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.activations import ACT2CLS
from transformers.utils.output_capturing import OutputRecorder

from sam_variants.configuration.configuration_mask_decoder import MaskDecoderConfig
from sam_variants.decoders.image_side import ImageSide, needed_mask
from sam_variants.layers.attention import Attention
from sam_variants.layers.attention_core import AttentionCore
from sam_variants.layers.layer_norm_2d import LayerNorm2d
from sam_variants.layers.mlp import MLP
from sam_variants.layers.sam2_two_way_transformer import SAM2TwoWayTransformer
from sam_variants.layers.token_linear import is_plain_inference, is_untouched
from sam_variants.layers.two_way_transformer import TwoWayTransformer
from sam_variants.pretrained_part import PretrainedPart, other_parts

# The score of an object whose decoder has no head for it: certainly there.
PRESENT_SCORE = 10.0
# The logits of an object that isn't there.
NO_OBJECT_LOGIT = -1024.0
# Folding pays while the tokens are few beside the channels, and with an image of so many pixels or so many objects on
# it; sharing the first layer's work pays from so many objects on.
MAX_FOLDED_TOKENS = 24
MIN_FOLDED_PIXELS = 1 << 10
MIN_FOLDED_OBJECTS = 3
MIN_SHARING_OBJECTS = 2


class DecodedMasks(NamedTuple):
    """What the decoder says of N objects with M masks each.

    Attributes:
        masks: logits N×M×4h×4w.
        iou_scores: predicted IoU N×M.
        object_tokens: the output tokens that describe the object, N×M×C, or N×1×C where there is one for all masks.
        object_score_logits: N×1, above 0 when the object is visible; 10 where the decoder has no head for it.
    """

    masks: Tensor
    iou_scores: Tensor
    object_tokens: Tensor
    object_score_logits: Tensor


class MaskDecoder(PretrainedPart):
    """Predicts masks from an image embedding and prompt embeddings (segment-anything, and SAM 2's form of it).

    Args:
        config: widths, and which of SAM 2's additions there are.
    """

    config: MaskDecoderConfig
    base_model_prefix = "mask_decoder"
    main_input_name = "image_embeddings"
    supports_gradient_checkpointing = False
    _keys_to_ignore_on_load_unexpected = other_parts("mask_decoder")
    _can_record_outputs = {"mask_decoder_attentions": OutputRecorder(AttentionCore, index=1)}

    def __init__(self, config: MaskDecoderConfig) -> None:
        super().__init__(config)
        width = config.transformer_dim
        activation: Any = ACT2CLS[config.hidden_act]
        transformer_activation: Any = ACT2CLS[config.transformer_act]
        self.num_mask_tokens = config.num_multimask_outputs + 1
        self.num_output_tokens = self.num_mask_tokens + (2 if config.pred_obj_scores else 1)
        transformer_class = SAM2TwoWayTransformer if config.sam2_transformer else TwoWayTransformer
        self.transformer = transformer_class(
            config.transformer_depth,
            width,
            config.transformer_num_heads,
            config.transformer_mlp_dim,
            transformer_activation,
            config.attention_downsample_rate,
            config.layer_norm_eps,
        )
        self.iou_token = nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(self.num_mask_tokens, width)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(width, width // 4, kernel_size=2, stride=2),
            LayerNorm2d(width // 4),
            activation(),
            nn.ConvTranspose2d(width // 4, width // 8, kernel_size=2, stride=2),
            activation(),
        )
        if config.high_resolution_channels is not None:
            finest, coarser = config.high_resolution_channels
            self.conv_s0 = nn.Conv2d(finest, width // 8, kernel_size=1)
            self.conv_s1 = nn.Conv2d(coarser, width // 4, kernel_size=1)
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(width, width, width // 8, 3) for _ in range(self.num_mask_tokens)
        )
        self.iou_prediction_head = MLP(
            width,
            config.iou_head_hidden_dim,
            self.num_mask_tokens,
            config.iou_head_depth,
            sigmoid=config.iou_prediction_use_sigmoid,
        )
        if config.pred_obj_scores:
            self.obj_score_token = nn.Embedding(1, width)
            self.pred_obj_score_head = MLP(width, width, 1, 3) if config.pred_obj_scores_mlp else nn.Linear(width, 1)
        self.post_init()

    def project_high_resolution(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Bring the encoder's maps (finest first) to the widths of the upscaling, once per image."""
        return [self.conv_s0(features[0]), self.conv_s1(features[1])]

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor | None,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool = True,
        high_resolution_features: Sequence[Tensor] | None = None,
        token_mask: Tensor | None = None,
        is_object: Tensor | None = None,
    ) -> DecodedMasks:
        """Predict masks for N objects on B images; N is a multiple of B and objects of one image follow each other.

        Args:
            image_embeddings: B×C×h×w.
            image_pe: position encoding, 1×C×h×w.
            sparse_prompt_embeddings: tokens N×K×C, or None.
            dense_prompt_embeddings: N×C×h×w.
            multimask_output: the masks for ambiguous prompts instead of the single one. The single one is replaced by
                the best of them where it is not stable, if the configuration says so and the module is in eval mode.
            high_resolution_features: what `project_high_resolution` gave, where the configuration has it.
            token_mask: N×K bool, False for padding tokens.
            is_object: N bool, False for padding objects: these get an empty mask of no quality.

        Returns:
            `DecodedMasks`.

        Raises:
            ValueError: when N is no multiple of B, or the high-resolution features are missing or not expected.
        """
        if (high_resolution_features is None) != (self.config.high_resolution_channels is None):
            wanted = "needs" if high_resolution_features is None else "has no use for"
            raise ValueError(f"this decoder {wanted} high_resolution_features, see its config.high_resolution_channels")
        num_images, num_objects = image_embeddings.shape[0], dense_prompt_embeddings.shape[0]
        if num_objects % num_images:
            raise ValueError(f"{num_objects} objects cannot be shared out over {num_images} images")
        masks, iou_scores, mask_tokens, object_score_logits = self.predict_masks(
            image_embeddings,
            image_pe,
            sparse_prompt_embeddings,
            dense_prompt_embeddings,
            high_resolution_features,
            token_mask,
            is_object,
        )
        chosen = slice(1, None) if multimask_output else slice(0, 1)
        described_by = chosen if self.config.use_multimask_token_for_obj_ptr else slice(0, 1)
        object_tokens = mask_tokens[:, described_by]
        if not multimask_output and self.config.dynamic_multimask_via_stability and not self.training:
            return DecodedMasks(*self.stable_masks(masks, iou_scores), object_tokens, object_score_logits)
        return DecodedMasks(masks[:, chosen], iou_scores[:, chosen], object_tokens, object_score_logits)

    def stable_masks(self, masks: Tensor, iou_scores: Tensor) -> tuple[Tensor, Tensor]:
        """The single mask where it is stable, else the best of the several: N×1×h×w and N×1, of all N×M."""
        delta = self.config.dynamic_multimask_stability_delta
        inner, outer = ((masks[:, :1] > bound).sum(dim=(2, 3)).float() for bound in (delta, -delta))
        stability = torch.where(outer > 0, inner / outer, torch.ones_like(inner))
        is_stable = stability >= self.config.dynamic_multimask_stability_thresh
        best = iou_scores[:, 1:].argmax(dim=-1, keepdim=True) + 1
        best_masks = masks.gather(1, best[..., None, None].expand(-1, -1, *masks.shape[2:]))
        best_scores = iou_scores.gather(1, best)
        return (
            torch.where(is_stable[..., None, None], masks[:, :1], best_masks),
            torch.where(is_stable, iou_scores[:, :1], best_scores),
        )

    def predict_masks(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor | None,
        dense_prompt_embeddings: Tensor,
        high_resolution_features: Sequence[Tensor] | None = None,
        token_mask: Tensor | None = None,
        is_object: Tensor | None = None,
    ) -> DecodedMasks:
        """All masks of every object with their tokens, the single one first; arguments as in `forward`."""
        num_objects = dense_prompt_embeddings.shape[0]
        tokens = self.prompt_tokens(sparse_prompt_embeddings, num_objects, dense_prompt_embeddings.device)
        if token_mask is not None:
            always = token_mask.new_ones(num_objects, self.num_output_tokens)
            token_mask = torch.cat([always, token_mask], dim=1)
        levels = high_resolution_features or []
        is_folded = (
            is_plain_inference()  # first, because a size that is compared is no longer free in an export
            and _folding_pays(image_embeddings, num_objects)
            and self.is_foldable(tokens.shape[1])
            and all(len(image_embeddings) % len(level) == 0 for level in levels)
        )
        predict = self._predict_folded if is_folded else self._predict_plainly
        decoded = predict(
            image_embeddings,
            image_pe,
            tokens,
            token_mask,
            dense_prompt_embeddings,
            high_resolution_features,
            is_object,
        )
        if is_object is None:
            return decoded
        return DecodedMasks(
            torch.where(is_object[:, None, None, None], decoded.masks, NO_OBJECT_LOGIT),
            torch.where(is_object[:, None], decoded.iou_scores, 0.0),
            decoded.object_tokens,
            torch.where(is_object[:, None], decoded.object_score_logits, -PRESENT_SCORE),
        )

    def _predict_plainly(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        tokens: Tensor,
        token_mask: Tensor | None,
        dense: Tensor,
        high_resolution_features: Sequence[Tensor] | None,
        is_object: Tensor | None,
    ) -> DecodedMasks:
        """`predict_masks` as the official code computes it, padding objects like others."""
        if token_mask is not None and is_plain_inference():
            token_mask = needed_mask(token_mask)
        image = _add_per_image(dense, image_embeddings)
        tokens, image_tokens = self.transformer(image, image_pe, tokens, token_mask)
        iou_scores, mask_tokens, object_score_logits = self.read_tokens(tokens)
        size = image_embeddings.shape[-2:]
        upscaled = self._upscale(image_tokens.transpose(1, 2).unflatten(2, size), high_resolution_features)
        hyper_in = torch.stack(
            [mlp(mask_tokens[:, index]) for index, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1
        )
        masks = (hyper_in @ upscaled.flatten(2)).unflatten(2, upscaled.shape[-2:])
        return DecodedMasks(masks, iou_scores, mask_tokens, object_score_logits)

    def prompt_tokens(self, sparse: Tensor | None, num_objects: int, device: torch.device) -> Tensor:
        """The tokens of N objects, N×T×C: score, IoU, masks, and the prompt tokens N×K×C if there are any."""
        rows = torch.arange(self.num_mask_tokens, device=device)
        output_tokens = torch.cat([self.iou_token(rows[:1]), self.mask_tokens(rows)])
        if self.config.pred_obj_scores:
            output_tokens = torch.cat([self.obj_score_token(rows[:1]), output_tokens])
        tokens = output_tokens.expand(num_objects, -1, -1)
        return tokens if sparse is None else torch.cat([tokens, sparse.to(tokens.dtype)], dim=1)

    def read_tokens(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The transformer's tokens N×T×C → IoU scores N×M, mask tokens N×M×C, object score logits N×1."""
        if self.config.pred_obj_scores:
            object_score_logits = self.pred_obj_score_head(tokens[:, 0])
            tokens = tokens[:, 1:]
        else:
            object_score_logits = tokens.new_full((tokens.shape[0], 1), PRESENT_SCORE)
        mask_tokens = tokens[:, 1 : 1 + self.num_mask_tokens]
        return self.iou_prediction_head(tokens[:, 0]), mask_tokens, object_score_logits

    def is_foldable(self, num_tokens: int) -> bool:
        """Whether `ImageSide` may compute what this decoder would: in inference, with layers that nobody changed."""
        # A hook around the whole decoder has its way; cores are hooked by transformers once attentions were asked for.
        bypassed = (MaskDecoder, AttentionCore)
        return (
            is_plain_inference()
            and num_tokens <= MAX_FOLDED_TOKENS
            and self.device.type != "meta"  # which knows no values to choose by, nor autocast
            and self.config._attn_implementation == "sdpa"
            and all(type(layer) in (nn.Linear, nn.ConvTranspose2d, LayerNorm2d) for layer in self._folded_layers())
            and all(is_untouched(module) for module in self.modules() if not isinstance(module, bypassed))
            and not torch.is_autocast_enabled(self.device.type)
        )

    def _folded_layers(self) -> Iterator[nn.Module]:
        """The layers whose weights `ImageSide` reads."""
        for module in self.transformer.modules():
            if isinstance(module, Attention):
                yield from (module.q_proj, module.k_proj, module.v_proj, module.out_proj)
        yield from (self.output_upscaling[index] for index in (0, 1, 3))
        yield from (layer for mlp in self.output_hypernetworks_mlps for layer in mlp.layers.children())

    def _predict_folded(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        tokens: Tensor,
        token_mask: Tensor | None,
        dense: Tensor,
        high_resolution_features: Sequence[Tensor] | None,
        is_object: Tensor | None,
    ) -> DecodedMasks:
        """`predict_masks`, image by image; padding objects are left out."""
        num_images, num_objects = len(image_embeddings), len(tokens)
        computed = None
        if is_object is not None and is_object.device.type == "cpu" and bool(is_object.any()):
            computed = is_object  # elsewhere it takes longer to learn which they are than to compute them
        is_shared = num_objects >= MIN_SHARING_OBJECTS * num_images and dense.stride(0) == 0
        answers = []
        for image, own in enumerate(torch.arange(num_objects, device=tokens.device).chunk(num_images)):
            if computed is not None:
                own = own[computed[own]]
            levels = high_resolution_features or []
            skips = [level[image * len(level) // num_images][None] for level in levels] or None
            side = ImageSide(
                self, image_embeddings[image : image + 1], image_pe, dense[:1] if is_shared else None, skips
            )
            own_mask = None if token_mask is None else token_mask[own]
            for _, answer in side.answer_groups(tokens[own], own_mask, None if is_shared else dense[own]):
                everyone = torch.ones(answer.iou_scores.shape, dtype=torch.bool, device="cpu").nonzero(as_tuple=True)
                masks = side.upscale(answer, *everyone).unflatten(0, answer.iou_scores.shape)
                answers.append((masks, answer.iou_scores, answer.mask_tokens, answer.object_score_logits))
        found = [torch.cat(parts) for parts in zip(*answers, strict=True)]
        if computed is not None and len(found[0]) < num_objects:
            found = [part.new_zeros(num_objects, *part.shape[1:]).index_put_((computed,), part) for part in found]
        return DecodedMasks(*found)

    def _upscale(self, image: Tensor, high_resolution_features: Sequence[Tensor] | None) -> Tensor:
        """N×C×h×w → N×C/8×4h×4w, with skip connections where there are any."""
        if high_resolution_features is None:
            return self.output_upscaling(image)
        first, norm, activation, second, last_activation = self.output_upscaling
        finest, coarser = high_resolution_features
        image = activation(norm(_add_per_image(first(image), coarser)))
        return last_activation(_add_per_image(second(image), finest))


def _folding_pays(image_embeddings: Tensor, num_objects: int) -> bool:
    """Whether B images B×C×h×w have enough pixels, or their N objects are enough, for `ImageSide` to be faster."""
    num_images, _, height, width = image_embeddings.shape
    return height * width >= MIN_FOLDED_PIXELS or num_objects >= MIN_FOLDED_OBJECTS * num_images


def _add_per_image(x: Tensor, feature: Tensor) -> Tensor:
    """Add maps of B images to those of N = B·P objects without repeating them."""
    num_images = feature.shape[0]
    return (x.unflatten(0, (num_images, -1)) + feature[:, None]).flatten(0, 1)
