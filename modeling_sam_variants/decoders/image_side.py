"""The mask decoder on one image and any number of prompts, without repeating the image for each of them.

What doesn't depend on the prompt is computed once. Prompts run in groups that fit into a processor's cache, and only
masks that are wanted are upscaled. The answers are those of the decoder's plain form, up to rounding.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.activations import GELUActivation

from sam_variants.layers.folded_attention import SharedPixels, folded_block, tiles, tokens_to_pixels
from sam_variants.layers.sending import sent
from sam_variants.layers.token_linear import batched_product, token_product

# Numbers in the image tokens of one group of prompts: 16 MB on a CPU.
GROUP_NUMBERS = {"cpu": 1 << 22}
MANY_NUMBERS = 1 << 26


class TokenAnswers(NamedTuple):
    """What the decoder's tokens say of G prompts, before any mask exists.

    Attributes:
        iou_scores: G×M for all masks, the single one first.
        mask_tokens: G×M×C.
        object_score_logits: G×1.
        pixels: image tokens G×hw×C, from which masks are upscaled.
    """

    iou_scores: Tensor
    mask_tokens: Tensor
    object_score_logits: Tensor
    pixels: Tensor


class ImageSide:
    """One image as the decoder sees it, for inference.

    Args:
        decoder: the `MaskDecoder`.
        image_embedding: 1×C×h×w.
        image_pe: its position encoding, 1×C×h×w.
        dense_prompt: 1×C×h×w, the dense prompt that all prompts share; None when each has its own.
        high_resolution_features: 1×C/8×4h×4w and 1×C/4×2h×2w where the decoder takes them.
    """

    def __init__(
        self,
        decoder: Any,
        image_embedding: Tensor,
        image_pe: Tensor,
        dense_prompt: Tensor | None = None,
        high_resolution_features: Sequence[Tensor] | None = None,
    ) -> None:
        self.decoder = decoder
        self.size = (image_embedding.shape[2], image_embedding.shape[3])
        self.pixels = _to_tokens(image_embedding if dense_prompt is None else image_embedding + dense_prompt)
        self.pixel_pe = _to_tokens(image_pe).to(self.pixels.dtype)
        self.shared: SharedPixels | None = None
        if dense_prompt is not None:
            first_block = decoder.transformer.layers[0]
            self.shared = SharedPixels.project(first_block, self.pixels, self.pixels + self.pixel_pe)
        self._first, self._second = (_as_product(decoder.output_upscaling[index]) for index in (0, 3))
        # Where the pixels of a mask lie among the cells that upscaling produces.
        places = torch.arange(16 * self.pixels.shape[1], device=self.pixels.device)
        height, width = self.size
        self._order = places.reshape(height, width, 2, 2, 2, 2).permute(0, 2, 4, 1, 3, 5).flatten()
        self._finest = self._coarser = None
        if high_resolution_features is not None:
            finest, coarser = high_resolution_features
            self._coarser = _cells(coarser, 1).unflatten(1, (-1, 4))
            self._finest = _cells(finest, 2).unflatten(1, (-1, 4, 4))

    def answer_groups(
        self, tokens: Tensor, token_mask: Tensor | None = None, dense_prompts: Tensor | None = None
    ) -> Iterator[tuple[slice, TokenAnswers]]:
        """Answer N prompts group by group.

        Args:
            tokens: output and prompt tokens, N×T×C.
            token_mask: N×T bool, False for padding tokens.
            dense_prompts: N×C×h×w when the prompts share none.

        Yields:
            Which prompts, and `TokenAnswers`.
        """
        num_pixels, channels = self.pixels.shape[1:]
        step = max(1, GROUP_NUMBERS.get(tokens.device.type, MANY_NUMBERS) // (num_pixels * channels))
        # One piece of memory for all groups: memory that is new to the process costs more than what is done with it.
        buffer = self.pixels.new_empty(min(step, len(tokens)), num_pixels, channels)
        for start in range(0, len(tokens), step):
            group = slice(start, start + step)
            mask = None if token_mask is None else needed_mask(token_mask[group])
            out = buffer[: len(tokens[group])]
            pixels = self.pixels
            if dense_prompts is not None:
                pixels = torch.add(pixels, dense_prompts[group].flatten(2).transpose(1, 2), out=out)
            yield group, self._answer(tokens[group], mask, pixels, out)

    def _answer(self, tokens: Tensor, token_mask: Tensor | None, pixels: Tensor, out: Tensor) -> TokenAnswers:
        decoder, token_pe = self.decoder, tokens
        transformer = decoder.transformer
        for index, block in enumerate(transformer.layers):
            shared = self.shared if index == 0 else None
            tokens, pixels = folded_block(block, tokens, token_pe, token_mask, pixels, self.pixel_pe, shared, out)
        attention = transformer.final_attn_token_to_image
        attended = tokens_to_pixels(attention, tokens + token_pe, pixels, self.pixel_pe)
        iou_scores, mask_tokens, object_score_logits = decoder.read_tokens(
            transformer.norm_final_attn(tokens + attended)
        )
        return TokenAnswers(iou_scores, mask_tokens, object_score_logits, pixels)

    def upscale(self, answers: TokenAnswers, prompts: Tensor, masks: Tensor) -> Tensor:
        """Make chosen masks.

        Args:
            answers: of one group.
            prompts, masks: J indices each, of the prompt in the group and of its mask; sorted by prompt, on the CPU.

        Returns:
            Logits J×4h×4w.
        """
        height, width = self.size
        if not len(prompts):
            return answers.pixels.new_empty(0, 4 * height, 4 * width)
        hyper = _run_side_by_side(self.decoder.output_hypernetworks_mlps, answers.mask_tokens)
        device = answers.pixels.device
        wanted, place = (sent(index, device) for index in prompts.unique_consecutive(return_inverse=True))
        num_pixels, channels = self.pixels.shape[1:]
        cells = hyper.new_empty(len(wanted), hyper.shape[1], 16 * num_pixels)
        for chosen, part in tiles((len(wanted), num_pixels, channels), hyper.device):
            features = self._upscaled_features(answers.pixels[wanted[chosen], part], part)
            start, stop, _ = part.indices(num_pixels)
            cells[chosen, :, 16 * start : 16 * stop] = batched_product(hyper[wanted[chosen]], features)
        return cells[place, sent(masks, device)].index_select(1, self._order).unflatten(1, (4 * height, 4 * width))

    def _upscaled_features(self, pixels: Tensor, part: slice) -> Tensor:
        """Pixels G×n×C, a part of all → G×16n×C/8: transposed convolutions as products, cell within cell."""
        _, norm, activation, _, last_activation = self.decoder.output_upscaling
        x = token_product(pixels, *self._first).unflatten(-1, (4, -1))
        if self._coarser is not None:
            x += self._coarser[:, part]
        x = _in_place(activation, nn.functional.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, norm.eps))
        x = token_product(x, *self._second).unflatten(-1, (4, -1))
        if self._finest is not None:
            x += self._finest[:, part]
        return _in_place(last_activation, x).flatten(1, 3)


def needed_mask(token_mask: Tensor) -> Tensor | None:
    """A mask of tokens, or None where it hides none of them; on another device than a CPU one would have to wait."""
    return None if token_mask.device.type == "cpu" and bool(token_mask.all()) else token_mask


def _in_place(activation: nn.Module, x: Tensor) -> Tensor:
    """An activation that may overwrite its input."""
    if isinstance(activation, nn.GELU | GELUActivation):
        return torch.ops.aten.gelu_(x, approximate=getattr(activation, "approximate", "none"))
    return activation(x)


def _to_tokens(x: Tensor) -> Tensor:
    """B×C×h×w → B×hw×C, contiguous."""
    return x.flatten(2).transpose(1, 2).contiguous()


def _cells(x: Tensor, doublings: int) -> Tensor:
    """1×C×H×W → 1×HW×C in the order that `doublings` transposed convolutions produce: cells of 2×2 in cells."""
    split = (-1, *[2] * doublings)
    x = x.permute(0, 2, 3, 1).unflatten(2, split).unflatten(1, split)
    # The axes are rows from coarse to fine, then columns from coarse to fine: 1, h, 2, …, w, 2, …, C.
    rows = range(1, doublings + 2)
    order = [axis for row in rows for axis in (row, row + doublings + 1)]
    return x.permute(0, *order, x.ndim - 1).flatten(1, -2).contiguous()


def _as_product(layer: nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """Weight 4C'×C and bias 4C' of a transposed convolution of kernel and stride 2, as a product on tokens."""
    bias = layer.bias
    return layer.weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous(), bias.repeat(4)


def _run_side_by_side(mlps: nn.ModuleList, x: Tensor) -> Tensor:
    """Each of M equal MLPs on its own column: N×M×C → N×M×C' in one batched product per layer."""
    x = x.transpose(0, 1)
    members: list[Any] = list(mlps)
    depth = len(members[0].layers)
    for index in range(depth):
        weights = torch.stack([mlp.layers[index].weight for mlp in members])
        biases = torch.stack([mlp.layers[index].bias for mlp in members])
        x = torch.baddbmm(biases[:, None], x, weights.transpose(1, 2))
        if index < depth - 1:
            x = members[0].act(x)
    return x.transpose(0, 1)
