"""Files that are no checkpoint, broken, or hostile: one clear error each, and no code is ever run."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_models import legacy_torch
from safetensors.torch import save_file
from torch import nn

from sam_variants.checkpoint_layouts.load_checkpoint import load_checkpoint


class Hostile:
    """Unpickled by an unguarded reader, this leaves a folder behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize(
    "write", [torch.save, legacy_torch, lambda content, path: path.write_bytes(pickle.dumps(content, 2))]
)
def test_code_is_never_run(write: Callable[[Any, Path], Any], tmp_path: Path) -> None:
    path, mark = tmp_path / "weights.pth", tmp_path / "was-run"
    write({"epoch": 3, "args": Hostile(mark)}, path)
    with pytest.raises(ValueError, match=r"holds code and was not run: it asks for (posix|nt)\.mkdir"):
        load_checkpoint(path)
    assert not mark.exists()


def test_newer_pickles_are_not_run_either(tmp_path: Path) -> None:
    path, mark = tmp_path / "weights.pth", tmp_path / "was-run"
    path.write_bytes(pickle.dumps({"model": Hostile(mark)}, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="none was run"):
            load_checkpoint(path)
    assert not mark.exists()


def test_whole_models_and_torchscript_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(ValueError, match=r"asks for torch\.nn\.modules\.linear\.Linear"):
        load_checkpoint(path)
    torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)).save(path)
    with pytest.raises(ValueError, match="TorchScript archive: it holds code and was not run"):
        load_checkpoint(path)


def safetensors_bytes(tmp_path: Path) -> bytes:
    save_file({"a": torch.ones(1000)}, tmp_path / "whole")
    return (tmp_path / "whole").read_bytes()


def torch_bytes(tmp_path: Path, write: Callable[[Any, Path], Any] = torch.save) -> bytes:
    write({"a": torch.ones(1000)}, tmp_path / "whole")
    return (tmp_path / "whole").read_bytes()


BROKEN: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "empty": (lambda _: b"", "is empty; download it again"),
    "web page": (lambda _: b"\n <!DOCTYPE html><html><body>Not found</body></html>", "is a web page"),
    "lfs pointer": (lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
    "text": (lambda _: b"these are not the weights you are looking for", "is not a checkpoint"),
    "short text": (lambda _: b"hello world\nfoo bar\n", r"or is truncated \(KeyError\)"),
    "noise": (lambda _: bytes(range(255, 0, -1)) * 9, "none was run|is not a checkpoint"),
    "torch cut short": (lambda path: torch_bytes(path)[:2500], "is truncated"),
    "torch cut at the end": (lambda path: torch_bytes(path)[:-30], "is truncated"),
    "old torch cut short": (lambda path: torch_bytes(path, legacy_torch)[:2500], "is truncated"),
    "old torch cut early": (lambda path: torch_bytes(path, legacy_torch)[:60], "is truncated"),
    "safetensors cut short": (lambda path: safetensors_bytes(path)[:2500], "truncated or corrupt safetensors"),
    "safetensors cut in its header": (lambda path: safetensors_bytes(path)[:40], "truncated or corrupt safetensors"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files(kind: str, tmp_path: Path) -> None:
    make, message = BROKEN[kind]
    path = tmp_path / "weights.pth"
    path.write_bytes(make(tmp_path))
    with pytest.raises(ValueError, match=message) as raised:
        load_checkpoint(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], "holds a list, not a state dict"),
        ({"epoch": 3, "optimizer": {}}, "holds no state dict at the top or under model, .*; found: epoch, optimizer"),
        ({"model": {"a": torch.ones(1)}, "state_dict": {"a": torch.ones(1)}}, r"several state dicts, under \['model'"),
        ({"a": torch.ones(1), "b": 3}, "entries that are no tensors: b"),
        ({"fc.weight": torch.ones(1)}, r"keys of no known layout .*: fc\.weight"),
    ],
)
def test_files_without_our_weights(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path / "weights.pth")
