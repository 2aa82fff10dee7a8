"""Image embeddings on disk: made once, read row by row in any order, however many there are."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import PartialState
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from sam_variants.configuration.configuration_base import VERSION_FIELD
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.pretrained_part import evaluating

INDEX_FILE = "index.json"
FORMAT = 1
SHARD_PATTERN = "rows-*.safetensors"
SHARD_MB = 256
# A large encoder on a processor takes an hour for a full shard, all of which a kill would cost.
MAX_HELD_SECONDS = 300.0
OPEN_SHARDS = 32
STORED_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
PRECISIONS = ("float32", "bfloat16")
# What of a model makes the image embeddings, by the beginnings of parameter names: also what comes behind the encoder.
EMBEDDING_PARTS = ("image_encoder.", "mask_decoder.conv_s0.", "mask_decoder.conv_s1.", "no_mem_embed")
# What configurations hold beside the architecture.
NO_ARCHITECTURE = ("transformers_version", VERSION_FIELD, "_name_or_path", "architectures", "dtype")


class ImageSource(Protocol):
    """Images with row numbers, such as `MaskDataset` and `ImageRows`.

    Its `fingerprint` is the same as long as rows and pixels are.
    """

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any:
        """A row with the attribute `image`, H×W×3 uint8."""


class EmbeddingShards:
    """Image embeddings by row number, in safetensors files that each hold some rows.

    A row is read alone, whatever lies beside it, so shuffled reading costs no more than reading in order, and nothing
    stays in memory. A shard appears in the folder when it is complete: after an interruption the finished ones are
    there, and `missing` tells the rest. Several processes may write different rows.

    Args:
        folder: a new or empty folder, or one of earlier embeddings.
        fingerprint: what the embeddings depend on, by name: strings and numbers.

    Raises:
        ValueError: the folder holds embeddings with another fingerprint, or something else.
        OSError: a shard is damaged.
    """

    def __init__(self, folder: str | Path, fingerprint: Mapping[str, Any]) -> None:
        self.folder = Path(folder).expanduser()
        self.fingerprint = dict(fingerprint)
        self._open: OrderedDict[str, Any] = OrderedDict()
        self._check_fingerprint()
        self.refresh()

    def _check_fingerprint(self) -> None:
        index = self.folder / INDEX_FILE
        if not index.is_file():
            if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
                raise ValueError(
                    f"{str(self.folder)!r} holds no embeddings ({INDEX_FILE} is missing): name a new folder"
                )
            return
        try:
            found = json.loads(index.read_text("utf-8"))
            stored, version = dict(found["fingerprint"]), found["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{str(index)!r} is no index of embeddings: {error!r}") from error
        if version != FORMAT:
            raise ValueError(f"{str(index)!r} has format {version!r}, this version reads {FORMAT}")
        wanted = json.loads(json.dumps(self.fingerprint))
        different = [name for name in (stored | wanted) if stored.get(name) != wanted.get(name)]
        if different:
            told = "; ".join(f"{name} was {stored.get(name)!r}, is {wanted.get(name)!r}" for name in different)
            raise ValueError(
                f"the embeddings in {str(self.folder)!r} were made with something else: {told}. Delete the folder or "
                "name another one"
            )

    def refresh(self) -> None:
        """Look again which rows are there, after other processes wrote some."""
        self._open.clear()
        self._places: dict[int, tuple[str, int]] = {}
        for path in sorted(self.folder.glob(SHARD_PATTERN)):
            with self._read(path) as shard:
                self._note(path.name, shard.keys())

    def _note(self, name: str, keys: Iterable[str]) -> None:
        """Remember in which shard the rows of these tensors are, and how many levels each has."""
        # of a row that two runs wrote at the same time, either one will do
        counts = Counter(int(key.partition(".")[0]) for key in keys)
        self._places |= {row: (name, num_levels) for row, num_levels in counts.items()}

    @staticmethod
    def _read(path: Path) -> Any:
        try:
            return safe_open(path, framework="pt")
        except SafetensorError as error:
            raise OSError(
                f"the shard {str(path)!r} is damaged ({error}): delete it and embed its rows again"
            ) from error

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, row: object) -> bool:
        return row in self._places

    def missing(self, rows: Iterable[int]) -> list[int]:
        """Those of the rows that are not there yet."""
        return [row for row in rows if row not in self._places]

    def __getitem__(self, row: int) -> list[Tensor]:
        """The maps of one row, each channels×height×width in the dtype they are stored in, the embedding last.

        Raises:
            KeyError: the row isn't there.
        """
        if row not in self._places:
            self.refresh()
        if row not in self._places:
            raise KeyError(f"row {row} is not among the {len(self)} embedded rows of {str(self.folder)!r}")
        name, num_levels = self._places[row]
        shard = self._shard(name)
        return [shard.get_tensor(f"{row}.{level}") for level in range(num_levels)]

    def _shard(self, name: str) -> Any:
        """A shard's reader, kept open for a while: it maps the file and has read its table of contents."""
        if name in self._open:
            self._open.move_to_end(name)
            return self._open[name]
        if len(self._open) >= OPEN_SHARDS:
            self._open.popitem(last=False)
        self._open[name] = self._read(self.folder / name)
        return self._open[name]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}

    def write(self, examples: Iterable[tuple[int, Sequence[Tensor]]], shard_mb: float = SHARD_MB) -> None:
        """Add rows; those of a shard are held in memory until it is full, `MAX_HELD_SECONDS` at most.

        What is held when something goes wrong, such as an image that can't be read, is stored before that is raised.

        Args:
            examples: row numbers with their maps, channels×height×width each.
            shard_mb: size of a shard in megabytes.

        Raises:
            ValueError: a row is there already.
        """
        self._write_index()
        held: dict[str, Tensor] = {}
        size, begun = 0, time.monotonic()
        try:
            for row, levels in examples:
                if row in self or f"{row}.0" in held:
                    raise ValueError(f"row {row} is already in {str(self.folder)!r}")
                maps = [tensor.detach().cpu().contiguous() for tensor in levels]
                held |= {f"{row}.{level}": tensor for level, tensor in enumerate(maps)}
                size += sum(tensor.nbytes for tensor in maps)
                if size >= shard_mb * 1e6 or time.monotonic() - begun > MAX_HELD_SECONDS:
                    full, held = held, {}
                    self._store(full)
                    size, begun = 0, time.monotonic()
        finally:
            if held:
                self._store(held)

    def _write_index(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self.folder / f".{INDEX_FILE}.{os.getpid()}"
        text = json.dumps({"format": FORMAT, "fingerprint": self.fingerprint}, indent=2)
        draft.write_text(text + "\n", encoding="utf-8")
        draft.replace(self.folder / INDEX_FILE)

    def _store(self, tensors: dict[str, Tensor]) -> None:
        rows = [int(key.partition(".")[0]) for key in tensors]
        path = self.folder / f"rows-{min(rows):08d}-{max(rows):08d}.safetensors"
        draft = path.with_name(f".{path.name}.part")
        save_file(tensors, draft)
        draft.replace(path)
        self._note(path.name, tensors)


def embedding_fingerprint(
    model: SamVariantsModel, processor: Any, dataset: ImageSource, dtype: str = "float16", precision: str = "float32"
) -> dict[str, Any]:
    """What the embeddings of a dataset depend on: `EmbeddingShards` refuses those with another one.

    The decoder's own weights are not part of it, so that they may be trained.
    """
    image_processor = getattr(processor, "image_processor", processor)
    settings = {
        name: value
        for name, value in image_processor.to_dict().items()
        if name not in ("image_processor_type", "auto_map")
    }
    return {
        "encoder": encoder_checksum(model),
        "image_size": image_processor.image_size,
        "processor": _digest(json.dumps(settings, sort_keys=True, default=str).encode()),
        "dataset": dataset.fingerprint,
        "precision": precision,
        "dtype": dtype,
    }


def encoder_checksum(model: SamVariantsModel) -> str:
    """A checksum of the weights and the architecture that `get_image_embeddings` depends on."""
    architecture = {
        name: value for name, value in model.config.vision_config.to_dict().items() if name not in NO_ARCHITECTURE
    }
    digest = hashlib.sha256(json.dumps(architecture, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(EMBEDDING_PARTS):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


class PreparedRows(Dataset):
    """Some rows of a dataset as the image encoder takes them: row number and pixel values 3×height×width."""

    def __init__(self, dataset: ImageSource, rows: Sequence[int], processor: Any) -> None:
        self.dataset, self.rows = dataset, rows
        self.processor = processor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        row = self.rows[index]
        return row, prepared_image(self.processor, self.dataset[row].image)["pixel_values"][0]


def prepared_image(processor: Any, image: Any) -> Any:
    """One image as a processor, or its image processor, prepares it, with its sizes."""
    return getattr(processor, "image_processor", processor)(images=image, return_tensors="pt")


def embed_dataset(
    model: SamVariantsModel,
    processor: Any,
    dataset: ImageSource,
    folder: str | Path,
    batch_size: int = 8,
    dtype: str = "float16",
    *,
    precision: str = "float32",
    rows: Sequence[int] | None = None,
    num_workers: int = 0,
    shard_mb: float = SHARD_MB,
) -> EmbeddingShards:
    """Encode the images of a dataset and keep the embeddings on disk; rows that lie there already are not done again.

    What is kept is what `model.get_image_embeddings` returns: the embedding, and before it the finer maps in the
    decoder's widths where it has skip connections. Pass it on as `image_embeddings`. No augmentation is possible with
    it. Under `accelerate launch` every process encodes its share, and all of them see all rows in the end.

    Args:
        model: on the device that it is to run on. Its encoder runs in evaluation mode.
        processor: the model's, or its image processor.
        dataset: images with row numbers; a `MaskDataset` that isn't streamed.
        folder: of the shards; where it holds some, they must have been made with the same weights and images.
        batch_size: images at once.
        dtype: what is stored: "float16", "bfloat16" or "float32".
        precision: what the encoder computes in, "float32" or "bfloat16" (autocast).
        rows: which rows; all of them by default.
        num_workers: processes that read and prepare images.
        shard_mb: size of a shard in megabytes.

    Returns:
        The shards, with all rows.

    Raises:
        ValueError: an unknown dtype or precision, embeddings of something else in the folder, or values beyond float16.
        OSError: the disk has no room for the embeddings, or a shard is damaged.
    """
    if dtype not in STORED_DTYPES or precision not in PRECISIONS:
        raise ValueError(
            f"dtype={dtype!r} must be one of {list(STORED_DTYPES)}, precision={precision!r} of {list(PRECISIONS)}"
        )
    state = PartialState()
    shards = EmbeddingShards(folder, embedding_fingerprint(model, processor, dataset, dtype, precision))
    wanted = range(len(dataset)) if rows is None else rows
    own = shards.missing(wanted)[state.process_index :: state.num_processes]
    state.wait_for_everyone()  # none writes before all have seen what is missing: their shares would not fit together
    loader: Any = DataLoader(PreparedRows(dataset, own, processor), batch_size, num_workers=num_workers)
    hidden = True if not own or not state.is_main_process else None  # None: where nobody is watching
    shown = tqdm(total=len(own), desc="image embeddings", unit="image", dynamic_ncols=True, disable=hidden)
    shards.write(_checked_room(_encoded(model, loader, dtype, precision, shown), len(own), shards.folder), shard_mb)
    shown.close()
    state.wait_for_everyone()
    shards.refresh()
    return shards


def _encoded(
    model: SamVariantsModel, loader: Iterable[Any], dtype: str, precision: str, shown: Any
) -> Iterator[tuple[int, list[Tensor]]]:
    """Every row of a loader with its maps, in the dtype that is stored."""
    device = model.device
    for numbers, pixel_values in loader:
        with (
            torch.inference_mode(),
            evaluating(model),
            torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"),
        ):
            found = model.get_image_embeddings(pixel_values.to(device, model.dtype))
            levels = [
                level.to("cpu", STORED_DTYPES[dtype]) for level in ([found] if isinstance(found, Tensor) else found)
            ]
        for place, row in enumerate(numbers.tolist()):
            maps = [level[place].clone() for level in levels]
            if not all(bool(level.isfinite().all()) for level in maps):
                raise ValueError(f"the embedding of row {row} has values beyond {dtype}: store dtype='bfloat16'")
            shown.update(1)
            yield row, maps


def _checked_room(
    examples: Iterable[tuple[int, list[Tensor]]], count: int, folder: Path
) -> Iterator[tuple[int, list[Tensor]]]:
    """The same examples; with the first one known, whether the disk has room for `count` of them."""
    for place, (row, maps) in enumerate(examples):
        if place == 0:
            needed = count * sum(level.nbytes for level in maps)
            free = shutil.disk_usage(folder).free
            if needed > free:
                raise OSError(
                    f"{count} embeddings take {needed / 1e9:.1f} GB, {str(folder)!r} has room for {free / 1e9:.1f} GB"
                )
        yield row, maps
