"""Replays what the official implementations computed (see `goldens/README.md`) on the classes of this package."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from golden_builders import RUNNERS, WHOLE_MODELS, build, reference_class
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.utils import ModelOutput

from sam_variants.layers.tiny_vit_convolutions import map_to_tokens

GOLDENS = Path(__file__).parent / "goldens"


@dataclass(frozen=True)
class Golden:
    """One golden folder: how the reference was built, its weights, and the tensors of its cases."""

    name: str
    config: dict[str, Any]
    weights: dict[str, Tensor]
    io: dict[str, Tensor]

    @property
    def is_whole_model(self) -> bool:
        """Whether it is an encoder, a decoder or all of them together, not a block."""
        return reference_class(self.config["spec"]) in WHOLE_MODELS

    @property
    def tolerance(self) -> float:
        """Largest absolute difference that is float32 rounding: more for the depth of a whole model."""
        return 1e-4 if self.is_whole_model else 1e-5

    def case(self, name: str) -> dict[str, Any]:
        return next(case for case in self.config["cases"] if case["name"] == name)

    def build(self) -> nn.Module | None:
        """Our module with the reference's weights, every key of which must fit; None for a golden of a function."""
        if self.config["spec"] is None:
            return None
        module = build(self.config["spec"])
        module.load_state_dict(self.weights, strict=True)
        return module


def golden_names() -> list[str]:
    """The goldens that are present."""
    return sorted(path.parent.name for path in GOLDENS.glob("*/config.json"))


@lru_cache(maxsize=4)
def load_golden(name: str) -> Golden:
    """Read a golden; weights that were stored as float16 are exact and become float32 again."""
    folder = GOLDENS / name
    weights = {}
    if (folder / "weights.safetensors").exists():
        stored = load_file(folder / "weights.safetensors")
        weights = {
            our_name(key): value.float() if value.is_floating_point() else value for key, value in stored.items()
        }
    config, io = json.loads((folder / "config.json").read_text()), load_file(folder / "io.safetensors")
    # Tensors that several cases share are stored once.
    io |= {name: io[stored] for name, stored in config.get("aliases", {}).items() if name not in io and stored in io}
    return Golden(name, config, weights, io)


def our_name(key: str) -> str:
    """SAM 2 gives two parts a prefix that SAM does without, and so do we."""
    return key.removeprefix("sam_") if key.startswith(("sam_prompt_encoder.", "sam_mask_decoder.")) else key


def case_differences(golden: Golden, case: dict[str, Any]) -> dict[str, float]:
    """Run one case; largest absolute difference of every output, intermediate stage and state afterwards."""
    module = golden.build()
    training = case.get("mode", "eval") == "train"
    if module is not None:
        module.train(training)
    # The cases share tensors, and a module must not write into its input.
    io = {key: value.clone() for key, value in golden.io.items()}
    if training and golden.is_whole_model:
        # Batch statistics of layer upon layer amplify rounding, so only the reference's own shall count.
        module.double()
        io = {key: value.double() if value.is_floating_point() else value for key, value in io.items()}
    stages: dict[str, Tensor] = {}
    with torch.set_grad_enabled(training), _recording(module, case.get("taps", []), stages):
        result = _call(golden, module, case, io)
    reference = _resolve(case["outputs"], io)
    differences = {name: difference(*pair) for name, *pair in _pairs("out", result, reference)}
    for tap in case.get("taps", []):
        ours = stages[tap] if tap in stages else _stage(result, tap)
        differences[f"tap {tap}"] = difference(ours, golden.io[f"{case['name']}/tap/{tap}"])
    state = {} if module is None else module.state_dict()
    for key in case.get("state_after", []):
        differences[f"state {key}"] = difference(state[key], golden.io[f"{case['name']}/state_after/{key}"])
    for key in golden.io:
        if "/in/" in key:
            differences[f"unchanged {key}"] = difference(io[key], golden.io[key])
    return differences


def difference(ours: Tensor, reference: Tensor) -> float:
    """Largest absolute difference; infinite for other shapes, other kinds of numbers or NaN."""
    if ours.shape != reference.shape or ours.is_floating_point() != reference.is_floating_point():
        return float("inf")
    if reference.numel() == 0:
        return 0.0
    largest = (ours.detach().double() - reference.double()).abs().max()
    return float("inf") if largest.isnan() else float(largest)


def _call(golden: Golden, module: nn.Module | None, case: dict[str, Any], io: dict[str, Tensor]) -> Any:
    """The case's call: a method of the module, or a runner for what is more than one call."""
    runner = RUNNERS.get((golden.name, case["call"]), RUNNERS.get(case["call"]))
    if runner is not None:
        return runner(module, case, _resolve(case["inputs"], io))
    method = module if case["call"] == "forward" else getattr(module, case["call"])
    return method(*_resolve(case["args"], io), **_resolve(case["kwargs"], io))


def _resolve(value: Any, io: dict[str, Tensor]) -> Any:
    """Put tensors and tuples where the configuration names them."""
    if isinstance(value, str) and value.startswith("@"):
        return io[value[1:]]
    if isinstance(value, dict) and "_tuple_" in value:
        return tuple(_resolve(item, io) for item in value["_tuple_"])
    if isinstance(value, dict):
        return {key: _resolve(item, io) for key, item in value.items()}
    return [_resolve(item, io) for item in value] if isinstance(value, list) else value


def _pairs(name: str, ours: Any, reference: Any) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Our tensors beside the reference's, through tuples and dicts; an encoder's output is its embedding."""
    if isinstance(reference, Tensor):
        yield name, getattr(ours, "last_hidden_state", ours), reference
        return
    items = reference.items() if isinstance(reference, dict) else enumerate(reference)
    for key, item in items:
        yield from _pairs(f"{name}.{key}", ours[key], item)


def _stage(result: Any, tap: str) -> Tensor:
    """A stage that is no module's output: a runner's result, or a stage of TinyViT, whose outputs are hidden states."""
    if isinstance(result, ModelOutput) and tap.startswith("layers."):
        return map_to_tokens(result.hidden_states[int(tap.removeprefix("layers.")) + 1])
    return result[tap]


@contextmanager
def _recording(module: nn.Module | None, taps: list[str], stages: dict[str, Tensor]) -> Iterator[None]:
    """Keep the outputs of the submodules that `taps` names as `path`, or `path/index` of a tuple."""

    def hook_for(tap: str, index: str) -> Any:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            stages[tap] = output[int(index)] if index else output

        return keep

    handles = []
    for tap in taps:
        path, _, index = tap.partition("/")
        submodule = dict(module.named_modules()).get(path) if module is not None else None
        if submodule is not None:
            handles.append(submodule.register_forward_hook(hook_for(tap, index)))
    yield
    for handle in handles:
        handle.remove()
