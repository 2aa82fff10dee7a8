"""What every benchmark measures, with its defaults; apart, so that `--help` tells them without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

EMBEDDED, PRESET = "embedded", "sam-vit-base"
ENCODERS = ("mobile-sam", "sam-vit-base", "sam2.1-hiera-tiny", EMBEDDED)
DECODERS = ("sam-vit-base", "sam2.1-hiera-tiny", EMBEDDED)
# The models whose mask generation is measured.
GENERATING = (PRESET, EMBEDDED)


@dataclass(frozen=True)
class ModelSettings:
    """What the benchmarks of a model's parts have in common.

    Attributes:
        models: presets with random weights, or "embedded".
        image_size: input of the presets in pixels; None for their own.
        repeats: rounds; the median counts.
        with_transformers: whether to measure transformers' models too.
        device, threads: where.
        quick: a minute: small inputs and few rounds.
    """

    models: tuple[str, ...] = (EMBEDDED,)
    image_size: int | None = None
    repeats: int = 5
    with_transformers: bool = True
    device: str = "cpu"
    threads: int = 1
    quick: bool = False

    def __post_init__(self) -> None:
        # Here, because it imports PyTorch, for which --help should not wait.
        from sam_variants.hub_scripts.benchmark_models import check_models

        check_models(self.models)


@dataclass(frozen=True)
class EncodeSettings(ModelSettings):
    """What is measured, see `ModelSettings`.

    Attributes:
        compiled: whether to measure ours under torch.compile too.
        quantize: ways to hold the weights in int8 that are measured too, see `QUANTIZATIONS`.
    """

    models: tuple[str, ...] = ENCODERS
    compiled: bool = False
    quantize: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        from sam_variants.quantization import check_name

        for name in self.quantize:
            check_name(name)


@dataclass(frozen=True)
class DecodeSettings(ModelSettings):
    """What is measured, see `ModelSettings`.

    Attributes:
        prompts: how many prompts are given together.
    """

    models: tuple[str, ...] = DECODERS
    prompts: tuple[int, ...] = (1, 4, 16, 64)


@dataclass(frozen=True)
class LoadSettings:
    """What is measured.

    Attributes:
        preset: whose weights, random ones, are loaded beside the embedded ones.
        repeats: processes for each number; the median counts.
        with_transformers: whether to measure transformers' model of the same size too.
        device, threads: where; models are loaded on the CPU.
        quick: what `QUICK` says.
    """

    preset: str = "sam-vit-base"
    repeats: int = 5
    with_transformers: bool = True
    device: str = "cpu"
    threads: int = 1
    quick: bool = False

    def __post_init__(self) -> None:
        from sam_variants.hub_scripts.benchmark_models import check_models

        check_models((self.preset,))


@dataclass(frozen=True)
class EverythingSettings:
    """What is measured.

    Attributes:
        megapixels: sizes of the image.
        points_per_side: of the grid.
        repeats: runs of each generator; the median counts.
        image_size: input of the random model in pixels; None for its own.
        models: of `GENERATING`.
        memory: gigabytes that transformers may need for the masks of a batch of points.
        with_transformers: whether to measure the others too.
        device, threads: where.
        quick: a small random model, what `QUICK` says, and neither bfloat16 nor the official code.
    """

    megapixels: tuple[float, ...] = (0.5, 3.0, 12.0, 50.0)
    points_per_side: int = 32
    repeats: int = 3
    image_size: int | None = None
    models: tuple[str, ...] = GENERATING
    memory: float = 6.0
    with_transformers: bool = True
    device: str = "cpu"
    threads: int = 1
    quick: bool = False

    def __post_init__(self) -> None:
        unknown = [name for name in self.models if name not in GENERATING]
        if unknown:
            raise ValueError(f"models={','.join(self.models)!r}: {unknown[0]!r} is none of {', '.join(GENERATING)}")


@dataclass(frozen=True)
class LabelingSettings:
    """What is measured.

    Attributes:
        images: how many are labeled for the speed.
        their_images: how many of them transformers gets, which takes longer.
        memory_images: how many are labeled to see what the memory does; 0 leaves it out.
        megapixels: size of an image.
        points_per_side: of the grid.
        jobs: numbers of batches at once.
        model: checkpoint; None for the embedded one.
        with_transformers: whether to measure the loop over its pipeline too.
        device, threads: where.
        quick: what `QUICK` says.
    """

    images: int = 16
    their_images: int = 3
    memory_images: int = 5000
    megapixels: float = 0.5
    points_per_side: int = 32
    jobs: tuple[int, ...] = (1, 2)
    model: str | None = None
    with_transformers: bool = True
    device: str = "cpu"
    threads: int = 1
    quick: bool = False


@dataclass(frozen=True)
class DemoSettings:
    """What is measured.

    Attributes:
        users: visitors at once.
        clicks: of each, behind the first.
        pause: seconds that each of many visitors waits before a click.
        with_browser: whether the single visitor may use one.
        threads: of PyTorch in the Space.
        device: where the Space computes.
    """

    users: int = 30
    clicks: int = 10
    pause: float = 1.0
    with_browser: bool = True
    threads: int = 1
    device: str = "cpu"


@dataclass(frozen=True)
class TrackSettings:
    """What is measured.

    Attributes:
        preset: the model of real size.
        image_size: side of its input in pixels; None for its own.
        frames: measured with it, once its mask memory is full.
        preset_objects: numbers of objects tracked with it.
        small_frames, objects: the same for the model with tiny dimensions, whose object pointers are full too.
        memory_frames: after how many frames to look at the memory, ascending.
        with_transformers: whether to measure transformers' model too.
        device, threads: where.
        model: checkpoint whose J is measured at its own and at half its input size; None is the embedded one.
        clips: for that; 0 leaves it out.
        quick: the real model at half its size only, no J, fewer frames of the small one.
    """

    preset: str = "sam2.1-hiera-tiny"
    image_size: int | None = None
    frames: int = 3
    preset_objects: tuple[int, ...] = (1,)
    small_frames: int = 30
    objects: tuple[int, ...] = (1, 4, 16)
    memory_frames: tuple[int, ...] = (20, 100, 500)
    with_transformers: bool = True
    device: str = "cpu"
    threads: int = 1
    model: str | None = None
    clips: int = 8
    quick: bool = False
