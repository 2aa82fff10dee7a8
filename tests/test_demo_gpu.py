"""Where a GPU is lent per call (ZeroGPU): the model runs in the decorated functions only, in another process."""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from sam_variants.spaces_demo import gpu, limits, segmenting
from sam_variants.spaces_demo.models import Loaded, store
from sam_variants.spaces_demo.photos import open_photo
from sam_variants.spaces_demo.prompts import ObjectPrompts

COINS = Path(__file__).resolve().parent.parent / "spaces_demo" / "examples" / "coins.jpg"
CLICKS = [ObjectPrompts(1, "coin", ((155, 50),), (1,)), ObjectPrompts(2, "box", box=(130, 20, 180, 80), candidate=1)]


class FakeSpaces:
    """Hugging Face's package without a GPU: arguments and results go through pickle, as between processes."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.is_lent = False

    def GPU(self, duration: int = 60) -> Callable[[Callable[..., Any]], Callable[..., Any]]:  # noqa: N802, as theirs
        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            @wraps(function)
            def call(*args: Any, **kwargs: Any) -> Any:
                self.calls.append((function.__name__, duration))
                args, kwargs = pickle.loads(pickle.dumps((args, kwargs)))
                self.is_lent = True
                try:
                    return pickle.loads(pickle.dumps(function(*args, **kwargs)))
                finally:
                    self.is_lent = False

            return call

        return decorate


@pytest.fixture
def spaces(monkeypatch: pytest.MonkeyPatch) -> FakeSpaces:
    fake = FakeSpaces()
    monkeypatch.setattr(gpu, "_SPACES", fake)
    return fake


@pytest.fixture
def on_zero_gpu(spaces: FakeSpaces) -> ModuleType:
    """`segmenting` as it is imported there; the one of the other tests stays as it is."""
    spec = importlib.util.find_spec(segmenting.__name__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def loaded(spaces: FakeSpaces) -> Iterator[Loaded]:
    """The embedded model, which refuses to run without a GPU."""
    loaded = store().get("embedded")

    def needs_gpu(module: nn.Module, inputs: Any) -> None:
        assert spaces.is_lent, f"{type(module).__name__} ran outside of the decorated functions"

    parts = [loaded.model.image_encoder, loaded.model.prompt_encoder, loaded.model.mask_decoder]
    hooks = [part.register_forward_pre_hook(needs_gpu) for part in parts]
    yield loaded
    for hook in hooks:
        hook.remove()


def test_the_gpu_works_in_decorated_functions_only(on_zero_gpu: ModuleType, loaded: Loaded, spaces: FakeSpaces) -> None:
    photo = open_photo(COINS)
    found = on_zero_gpu.segment_objects(loaded, photo, CLICKS)
    on_zero_gpu.segment_objects(loaded, photo, CLICKS[:1])
    assert spaces.calls == [
        ("_encode", limits.ENCODE_SECONDS),
        ("_decode", limits.PROMPT_SECONDS),
        ("_decode", limits.PROMPT_SECONDS),
    ]
    spaces.is_lent = True
    segmenting._EMBEDDINGS.clear()
    expected = segmenting.segment_objects(loaded, photo, CLICKS)
    assert torch.equal(found.data, expected.data)
    assert torch.equal(found.scores, expected.scores)


def test_the_check_itself(loaded: Loaded) -> None:
    segmenting._EMBEDDINGS.clear()
    with pytest.raises(AssertionError, match="outside of the decorated functions"):
        segmenting.segment_objects(loaded, open_photo(COINS), CLICKS)


def test_elsewhere_functions_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_SPACES", None)

    def work() -> int:
        return 1

    assert gpu.gpu(duration=5)(work) is work


@pytest.mark.parametrize(("is_there", "expected"), [(False, "cpu"), (True, "cuda")])
def test_models_live_where_cuda_is(is_there: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: is_there)
    assert gpu.device().type == expected


def test_embeddings_are_kept_in_host_memory(loaded: Loaded, spaces: FakeSpaces) -> None:
    spaces.is_lent = True
    segmenting._EMBEDDINGS.clear()
    levels = segmenting.embeddings(loaded, open_photo(COINS))
    assert isinstance(levels, list)
    assert all(level.device.type == "cpu" for level in levels)
    assert segmenting._EMBEDDINGS.used == sum(level.nbytes for level in levels)


@pytest.mark.gpu
def test_on_a_real_gpu() -> None:
    """The same masks as on the processor, but for rounding."""
    loaded, photo = store().get("embedded"), open_photo(COINS)
    assert loaded.model.device.type == "cuda"
    found = segmenting.segment_objects(loaded, photo, CLICKS)
    loaded.generator(photo.image(), points_per_side=8)
    loaded.model.to("cpu")
    segmenting._EMBEDDINGS.clear()
    try:
        expected = segmenting.segment_objects(loaded, photo, CLICKS)
    finally:
        loaded.model.to("cuda")
    assert (found.data != expected.data).float().mean() < 1e-3
