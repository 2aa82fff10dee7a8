"""Mask logits at the size of an image that are upscaled only when somebody looks at them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from sam_variants.mask_runs import MaskGeometry
from sam_variants.processing.mask_post_processing import upscale_logits


class UpscaledMasks(Tensor):
    """A float32 tensor P×M×height×width that holds P×M×h×w logits and makes its values on the first use.

    Whoever knows the class reads `logits` and `geometry` and never pays for the pixels; for all others it is the
    tensor that `upscale_logits` gives. Changes in place go to the values, which then stay.

    Args:
        logits: P×M×h×w, without gradient.
        geometry: how they become pixels.
    """

    logits: Tensor
    geometry: MaskGeometry
    _upscaled: Tensor | None

    @staticmethod
    def __new__(cls, logits: Tensor, geometry: MaskGeometry) -> UpscaledMasks:
        shape = (*logits.shape[:2], *geometry.size)
        wrapper: Any = Tensor._make_wrapper_subclass(cls, shape, dtype=torch.float32, device=logits.device)
        wrapper.logits, wrapper.geometry, wrapper._upscaled = logits.detach(), geometry, None
        return wrapper

    # Results are plain tensors, not of this class.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        args, kwargs = tree_map_only(cls, cls.values_now, (args, kwargs or {}))
        return func(*args, **kwargs)

    @property
    def is_upscaled(self) -> bool:
        """Whether the values are there already, and may have been changed."""
        return self._upscaled is not None

    def values_now(self) -> Tensor:
        """The values as a plain tensor, always the same one."""
        if self._upscaled is None:
            geometry = self.geometry
            inner_size = geometry.reshaped_input_size or geometry.size
            self._upscaled = upscale_logits(self.logits, geometry.size, inner_size, geometry.input_size)
        return self._upscaled

    # What reads a tensor's memory does not come through the dispatcher.

    def numpy(self, *, force: bool = False) -> np.ndarray:
        return self.values_now().numpy(force=force)

    def tolist(self) -> list[Any]:
        return self.values_now().tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values_now(), dtype=dtype, copy=copy)

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self.values_now().__dlpack__(**kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return self.values_now().clone()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.values_now().__reduce_ex__(protocol)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return repr(self.values_now())
