"""Files made to do harm: refused with one clear error, before anything of them runs or fills the memory."""

from __future__ import annotations

import json
import os
import shutil
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_models import legacy_torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor, pipeline

from sam_variants.checkpoint_layouts.load_checkpoint import load_checkpoint
from sam_variants.configuration.configuration_sam_variants import SamVariantsConfig
from sam_variants.modeling_sam_variants import SamVariantsModel
from sam_variants.processing.processing_sam_variants import SamVariantsProcessor
from tests.tiny import save_tiny

WEIGHTS = "model.safetensors"
LOADERS = (load_checkpoint, SamVariantsModel.from_pretrained, AutoModel.from_pretrained)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("saved") / "model", "vit")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "model")


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """Comes into being when code of a file is run."""
    return tmp_path / "canary"


def refused(load: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """The one line with which something is refused."""
    with pytest.raises((ValueError, OSError)) as raised:
        load(*args, **kwargs)
    assert "\n" not in str(raised.value)
    return str(raised.value)


class Runs:
    """Unpickled by an unguarded reader, this runs a command."""

    def __init__(self, canary: Path) -> None:
        self.command = f"touch {canary}"

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


class RunsLater:
    """The same by the state that is set after an innocent object was made."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return OrderedDict, (), {"x": Runs(self.canary)}, None, iter([("a", Runs(self.canary))])


PLACES: dict[str, Callable[[Any], Any]] = {
    "alone": lambda bomb: bomb,
    "beside the weights": lambda bomb: {"model": {"a": torch.ones(2)}, "epoch": bomb},
    "in the optimizer's state": lambda bomb: {
        "state_dict": {"a": torch.ones(2)},
        "optimizer": {"state": {0: {"step": torch.ones(()), "exp_avg": [bomb]}}, "param_groups": [{"lr": 0.1}]},
    },
    "as a weight": lambda bomb: {"model": {"a": torch.ones(2), "b": bomb}},
    "deep inside": lambda bomb: {"model": {"state_dict": {"model": {"a": torch.ones(2), "more": ({"x": bomb},)}}}},
    "as the metadata of a state dict": lambda bomb: with_metadata(OrderedDict(a=torch.ones(2)), bomb),
}


def with_metadata(state: OrderedDict[str, Tensor], bomb: Any) -> OrderedDict[str, Tensor]:
    state._metadata = bomb  # type: ignore[attr-defined]
    return state


@pytest.mark.parametrize("bomb", [Runs, RunsLater])
@pytest.mark.parametrize("place", PLACES)
def test_pickles_never_run(place: str, bomb: Callable[[Path], Any], canary: Path, tmp_path: Path) -> None:
    for suffix, write in ((".pt", torch.save), (".pth", legacy_torch), (".bin", torch.save)):
        path = tmp_path / f"weights{suffix}"
        write(PLACES[place](bomb(canary)), path)
        assert "was not run" in refused(load_checkpoint, path)
    assert not canary.exists()


def test_a_folder_of_pickles_does_not_run(folder: Path, canary: Path) -> None:
    (folder / WEIGHTS).unlink()
    torch.save({"image_encoder.x": Runs(canary)}, folder / "pytorch_model.bin")
    assert "pytorch_model.bin' holds code and was not run" in refused(load_checkpoint, folder)
    for load in LOADERS[1:]:
        assert "has its weights in pytorch_model.bin, and from_pretrained reads safetensors" in refused(load, folder)
    assert not canary.exists()


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_from_pretrained_reads_safetensors_only(variant: str | None, folder: Path) -> None:
    """transformers would read other files without looking at what they hold, and an index to anywhere."""
    weights = load_file(folder / WEIGHTS)
    options: dict[str, Any] = {} if variant is None else {"variant": variant}
    dot = "" if variant is None else f".{variant}"
    (folder / WEIGHTS).unlink()
    torch.save(weights, folder.parent / "outside.bin")
    index = folder / f"pytorch_model.bin.index{dot}.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(weights, "../outside.bin")}))
    for load in LOADERS[1:]:
        assert f"has its weights in {index.name}" in refused(load, folder, **options)
    index.unlink()
    torch.save(weights, folder / f"pytorch_model{dot}.bin")
    for load in LOADERS[1:]:
        told = refused(load, folder, **options)
        assert f"has its weights in pytorch_model{dot}.bin" in told
        assert f"sam_variants.load_checkpoint('{folder}') reads other files" in told
        assert "reads safetensors only" in refused(load, folder, use_safetensors=False, **options)
    assert load_checkpoint(folder)
    config = AutoConfig.from_pretrained(folder)
    told = refused(SamVariantsModel.from_pretrained, folder.parent / "outside.bin", config=config)
    assert "outside.bin' is no .safetensors file" in told
    shards = folder / f"model.safetensors.index{dot}.json"
    shards.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(weights, "pytorch_model.bin")}))
    for load in LOADERS[1:]:
        assert "'pytorch_model.bin' is no .safetensors file" in refused(load, folder, **options)


def test_a_damaged_file_that_is_not_loaded_is_not_blamed(folder: Path) -> None:
    (folder / "other.safetensors").touch()
    edit_json(folder / "config.json", vision_config={"model_type": "sam_variants_vit", "image_size": "wide"})
    for load in LOADERS[1:]:
        assert "other.safetensors" not in refused(load, folder)


def rewritten(path: Path, change: Callable[[zipfile.ZipInfo, bytes], bytes], packed: bool = False) -> Path:
    """A copy of an archive with changed entries."""
    out = path.with_name("rewritten.pt")
    method = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "w", method) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, change(entry, source.read(entry)))
    return out


def test_archives_that_unfold_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"model": {"a": torch.zeros(50_000_000, dtype=torch.uint8)}}, path)
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("it was read"))
    small = rewritten(path, lambda entry, data: data, packed=True)
    assert small.stat().st_size < 100_000
    assert "holds compressed entries" in refused(load_checkpoint, small)
    # Many names for the same bytes.
    with zipfile.ZipFile(tmp_path / "overlap.pt", "w") as archive:
        archive.writestr("weights/data/0", bytes(100_000))
        for number in range(1, 1000):
            entry = zipfile.ZipInfo(f"weights/data/{number}")
            entry.file_size = entry.compress_size = 100_000
            entry.header_offset = entry.CRC = 0
            archive.filelist.append(entry)
    assert "holds more than its own size" in refused(load_checkpoint, tmp_path / "overlap.pt")
    # What begins like an archive but has no directory, or a broken one.
    whole = path.read_bytes()
    disks = whole.rindex(b"PK\x06\x07") + 16
    for name, content in {
        "cut.pt": whole[:1000],
        "directory.pt": whole[:-60] + b"\xff" * 20 + whole[-40:],
        "disks.pt": whole[:disks] + b"\x07" + whole[disks + 1 :],
    }.items():
        (tmp_path / name).write_bytes(content)
        assert "is not a checkpoint or is truncated" in refused(load_checkpoint, tmp_path / name)


def test_wrappers_without_an_end(tmp_path: Path) -> None:
    endless: dict[str, Any] = {}
    endless["model"] = endless
    torch.save(endless, tmp_path / "weights.pt")
    assert "holds no state dict" in refused(load_checkpoint, tmp_path / "weights.pt")


TENSORS: dict[str, tuple[Callable[[], Tensor], str]] = {
    "expanded": (lambda: torch.ones(1).expand(10**5, 10**6), r"stored as 4 bytes and claims to be (100000, 1000000)"),
    "overlapping": (lambda: torch.ones(100).as_strided((90, 10), (1, 1)), "stored as 400 bytes"),
    "sparse": (lambda: torch.sparse_coo_tensor(torch.zeros(2, 1).long(), torch.ones(1), (10**6, 10**6)), "sparse_coo"),
    "sparse rows": (lambda: torch.eye(3).to_sparse_csr(), "sparse_csr"),
    "on no device": (lambda: torch.empty(10**6, 10**6, device="meta"), "on meta"),
    "complex": (lambda: torch.ones(2, dtype=torch.complex64), "complex64"),
    "of 8 bits": (lambda: torch.ones(2).to(torch.float8_e4m3fn), "float8_e4m3fn"),
}


@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_tensors_that_are_not_what_they_seem(kind: str, tmp_path: Path) -> None:
    make, message = TENSORS[kind]
    torch.save({"image_encoder.pos_embed": make()}, tmp_path / "weights.pt")
    told = refused(load_checkpoint, tmp_path / "weights.pt")
    assert message in told
    assert "image_encoder.pos_embed in '" in told


def test_many_names_for_one_storage(tmp_path: Path) -> None:
    one = torch.ones(1_000_000)
    torch.save({f"image_encoder.{number}": one for number in range(100)}, tmp_path / "weights.pt")
    assert "claim 400000000 bytes" in refused(load_checkpoint, tmp_path / "weights.pt")


@pytest.mark.parametrize("size", [10**4, 10**12, 2**62, -1])
def test_storages_smaller_than_their_tensors(size: int, tmp_path: Path) -> None:
    """The pickle in the archive claims more numbers than there are."""
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.ones(1000)}, path)

    def claim(entry: zipfile.ZipInfo, data: bytes) -> bytes:
        number = b"\x8a\x08" + size.to_bytes(8, "little", signed=True)
        return data.replace(b"M\xe8\x03", number) if entry.filename.endswith("data.pkl") else data

    forged = rewritten(path, claim)
    assert forged.read_bytes() != path.read_bytes()
    assert "is not a checkpoint or is truncated" in refused(load_checkpoint, forged)


def header_bytes(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


HEADERS: dict[str, bytes] = {
    "longer than any memory": header_bytes({"a": entry([1], 0, 4)}, bytes(4), length=2**60),
    "longer than the file": header_bytes({"a": entry([1], 0, 4)}, bytes(4), length=10**6),
    "negative": header_bytes({"a": entry([1], 0, 4)}, bytes(4), length=2**64 - 1),
    "data outside the file": header_bytes({"a": entry([1], 0, 4), "b": entry([10], 4, 44)}, bytes(4)),
    "data before the file": header_bytes(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}', bytes(4)),
    "backwards": header_bytes({"a": entry([1], 4, 0)}, bytes(4)),
    "overlapping": header_bytes({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)),
    "the same bytes twice": header_bytes({"a": entry([2], 0, 8), "b": entry([2], 0, 8)}, bytes(8)),
    "a shape larger than its data": header_bytes({"a": entry([10**6, 10**6], 0, 4)}, bytes(4)),
    "a shape that overflows": header_bytes({"a": entry([2**33, 2**33], 0, 0)}),
    "a shape that overflows to the right size": header_bytes({"a": entry([2**62, 4, 1], 0, 0)}),
    "the same name twice": header_bytes(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        bytes(8),
    ),
    "an unknown type": header_bytes({"a": entry([1], 0, 4, dtype="OBJECT")}, bytes(4)),
    "nested deeply": header_bytes(b'{"a":' * 5000 + b"1" + b"}" * 5000),
    "no object": header_bytes(b'{"a": 3}'),
    "bytes that belong to nothing": header_bytes({"a": entry([1], 0, 4)}, bytes(4) + b"MZ\x90\x00"),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_forged_safetensors(kind: str, folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(HEADERS[kind])
    for load in LOADERS:
        told = refused(load, folder)
        assert f"{WEIGHTS}' is a truncated or corrupt safetensors file" in told or "keys of no known layout" in told


def test_a_header_of_hundreds_of_megabytes(folder: Path) -> None:
    with (folder / WEIGHTS).open("wb") as file:
        file.write(header_bytes(b'{"a":', length=400_000_000))
        file.truncate(400_000_016)
    for load in LOADERS:
        assert "header too large" in refused(load, folder)


INDEXES: dict[str, Any] = {
    "above": "../model-00001-of-00002.safetensors",
    "absolute": "/etc/passwd",
    "the folder itself": ".",
    "the folder above": "..",
    "another system's path": "..\\x.safetensors",
    "a stream": "x:y.safetensors",
    "a number": 3,
    "a list": ["x.safetensors"],
    "nothing": None,
    "an object": {"a": "b"},
    "another kind of file": "config.json",
    "an empty name": "",
}


@pytest.mark.parametrize("kind", INDEXES)
def test_forged_indexes(kind: str, folder: Path) -> None:
    """A shard may not be read from elsewhere, even if what lies there is one."""
    shutil.copy(folder / WEIGHTS, folder.parent / "model-00001-of-00002.safetensors")
    (folder / WEIGHTS).unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"mask_decoder.iou_token.weight": INDEXES[kind]}}))
    for load in LOADERS:
        assert "model.safetensors.index.json' " in refused(load, folder)


def test_indexes_without_measure(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    index = folder / "model.safetensors.index.json"
    for content, message in (
        (json.dumps({"weight_map": {f"a{n}": f"{n}.safetensors" for n in range(10_001)}}), "more than 10000 shards"),
        ('{"weight_map": {}}' + " " * 20_000_000, "at most 20000000 are read"),
        ("[" * 100_000, "not valid JSON"),
        ('{"weight_map": ["model.safetensors"]}', "has no 'weight_map'"),
    ):
        index.write_text(content)
        assert message in refused(load_checkpoint, folder)


def test_links_of_the_cache_are_followed(folder: Path) -> None:
    """The cache of the Hub is made of them."""
    blobs = folder.parent / "blobs"
    blobs.mkdir()
    for name in (WEIGHTS, "config.json"):
        (folder / name).rename(blobs / name)
        (folder / name).symlink_to(Path("../blobs") / name)
    for load in LOADERS:
        assert load(folder)


EVIL = """
import pathlib
pathlib.Path({canary!r}).touch()
from transformers import Pipeline, PreTrainedConfig, PreTrainedModel, ProcessorMixin
class Config(PreTrainedConfig):
    model_type = "sam_variants"
class Model(PreTrainedModel):
    config_class = Config
class Processor(ProcessorMixin):
    pass
class Evil(Pipeline):
    pass
"""
TASKS = ("promptable-segmentation", "mask-generation")


def edit_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("trust", [None, False, True])
@pytest.mark.parametrize("where", ["evil", "someone/else--evil"])
def test_code_beside_the_weights_does_not_run(where: str, trust: bool | None, folder: Path, canary: Path) -> None:
    """With this package installed no code of a checkpoint is needed, so none is run, whatever the caller allows."""
    (folder / "evil.py").write_text(EVIL.format(canary=str(canary)))
    (folder / "chat_template.jinja").write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    auto_map = {
        "AutoConfig": f"{where}.Config",
        "AutoModel": f"{where}.Model",
        "AutoModelForMaskGeneration": f"{where}.Model",
        "AutoProcessor": f"{where}.Processor",
        "AutoImageProcessor": f"{where}.Processor",
    }
    pipelines = {task: {"impl": f"{where}.Evil", "pt": ["AutoModel"]} for task in TASKS}
    edit_json(folder / "config.json", auto_map=auto_map, custom_pipelines=pipelines, architectures=["Evil"])
    edit_json(folder / "processor_config.json", auto_map=auto_map)
    allowed = {} if trust is None else {"trust_remote_code": trust}
    assert type(AutoConfig.from_pretrained(folder, **allowed)) is SamVariantsConfig
    model = AutoModel.from_pretrained(folder, **allowed)
    assert type(model) is SamVariantsModel
    assert type(AutoProcessor.from_pretrained(folder, **allowed)) is SamVariantsProcessor
    assert AutoImageProcessor.from_pretrained(folder, **allowed).image_size == 64
    for task in TASKS:
        assert type(pipeline(task, model=str(folder), **allowed)).__module__.startswith("sam_variants.")
    assert load_checkpoint(folder)
    assert not canary.exists()
    model.save_pretrained(folder.parent / "again")
    assert "auto_map" not in (folder.parent / "again" / "config.json").read_text()
