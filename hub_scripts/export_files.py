"""A part of a model as a file, and the same file run again and compared."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.fx.experimental._config
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind

from sam_variants.hub_scripts.export_format import Format
from sam_variants.hub_scripts.export_parts import Part

# What a part is traced with; all different, so that no two sizes are taken for one.
TRACED_SIZES = {
    "batch": 3,
    "objects": 4,
    "points": 5,
    "kinds": 2,
    "memories": 6,
    "pointers": 7,
    "height": 48,
    "width": 61,
}
# The least that a free size can be, where that is not one.
LEAST_SIZES = {"height": 2, "width": 2}
# What it is tried with: alone, and in groups.
TRIED_SIZES = (
    {"batch": 1, "objects": 1, "points": 1, "kinds": 1, "memories": 1, "pointers": 1, "height": 97, "width": 64},
    {"batch": 2, "objects": 3, "points": 2, "kinds": 3, "memories": 3, "pointers": 9, "height": 50, "width": 130},
    {"batch": 1, "objects": 2, "points": 7, "kinds": 4, "memories": 2, "pointers": 3, "height": 64, "width": 64},
)
# The largest difference that is let through, in units of the output's typical size.
LARGEST_DIFFERENCE = 1e-3
SMALLEST_SCALE = 1e-3
# A file of ONNX takes 2 GB at most; weights above lie beside it.
MAX_ONNX_BYTES = 1_900_000_000

Run = Callable[[dict[str, Tensor]], list[Tensor]]


def trace(part: Part) -> ExportedProgram:
    """Record a part as a graph, its free sizes left free.

    Outside of training and under an export the model takes its plain form: what is folded, cut into blocks or left to
    oneDNN is for inference in this process.
    """
    sizes = {name: Dim(name, min=LEAST_SIZES.get(name, 1)) for name in part.free_sizes()}
    shapes = {
        name: {axis: sizes[size] for axis, size in enumerate(given.shape) if isinstance(size, str)}
        for name, given in part.inputs.items()
    }
    example = part.example(TRACED_SIZES)
    # A size of one is a size like any other: without this, what was traced with several objects refuses a single one.
    settings: Any = torch.fx.experimental._config
    with torch.no_grad(), settings.patch(backed_size_oblivious=True):
        program = torch.export.export(part.module, (), example, dynamic_shapes=shapes, strict=False)
    drop_unused_weights(program)
    program.example_inputs = None  # they would be stored
    return program


def drop_unused_weights(program: ExportedProgram) -> None:
    """Remove the weights of other parts of the model, which `torch.export` keeps."""
    kept = []
    for spec in program.graph_signature.input_specs:
        node = next(node for node in program.graph.nodes if node.name == spec.arg.name)
        if spec.kind is InputKind.USER_INPUT or node.users:
            kept.append(spec)
            continue
        program.graph.erase_node(node)
        program.state_dict.pop(spec.target, None)
        program.constants.pop(spec.target, None)
    program.graph_signature.input_specs[:] = kept
    program.graph_module.recompile()


def write_onnx(program: ExportedProgram, part: Part, file: Path, opset: int | None) -> None:
    """Write an ONNX file; its free sizes keep their names.

    Raises:
        ValueError: for a version of operators that the installed packages can't write.
    """
    names = {
        name: {axis: size for axis, size in enumerate(given.shape) if isinstance(size, str)}
        for name, given in part.inputs.items()
    }
    num_bytes = sum(weight.nbytes for weight in program.state_dict.values())
    with torch.no_grad(), quietly():
        written: Any = torch.onnx.export(
            program,
            (),
            file,
            input_names=list(part.inputs),
            output_names=list(part.outputs),
            opset_version=opset,
            dynamic_shapes=names,
            external_data=num_bytes > MAX_ONNX_BYTES,
            dynamo=True,
            verbose=False,
        )
    version = written.model.opset_imports[""]
    if version != (opset or version):
        raise ValueError(
            f"--opset {opset} is not what the installed PyTorch and onnxscript can write: {file.name} has version "
            f"{version}; nothing was written"
        )


def write_pt2(program: ExportedProgram, part: Part, file: Path, opset: int | None) -> None:
    """Write a file for `torch.export.load`."""
    with quietly():
        torch.export.save(program, file)


def read_onnx(file: Path) -> Run:
    """A way to run an ONNX file on the CPU.

    Raises:
        ValueError: when ONNX Runtime does not know what is in it, such as operators of a later version.
    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no class of their own
        raise ValueError(
            f"ONNX Runtime {onnxruntime.__version__} can't read {file.name}; another --opset may help, and nothing "
            f"was written ({str(error).splitlines()[0]})"
        ) from error

    def run(inputs: dict[str, Tensor]) -> list[Tensor]:
        found: Any = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        return [torch.from_numpy(array) for array in found]

    return run


def read_pt2(file: Path) -> Run:
    """The same for a file of `torch.export`."""
    with quietly():
        module = torch.export.load(file).module()

    def run(inputs: dict[str, Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return as_list(module(**inputs))

    return run


# What a format needs beside PyTorch.
PACKAGES: dict[Format, tuple[str, ...]] = {Format.onnx: ("onnx", "onnxscript", "onnxruntime"), Format.pt2: ()}
WRITERS: dict[Format, Callable[[ExportedProgram, Part, Path, int | None], None]] = {
    Format.onnx: write_onnx,
    Format.pt2: write_pt2,
}
READERS: dict[Format, Callable[[Path], Run]] = {Format.onnx: read_onnx, Format.pt2: read_pt2}


@dataclass(frozen=True)
class Written:
    """What became of a part.

    Attributes:
        file: the file's name.
        differences: by output, as `difference` measures them.
    """

    file: str
    differences: dict[str, float]


def check_packages(to: Format) -> None:
    """Raise unless everything that a format needs is installed.

    Raises:
        ValueError: naming the package and the command that installs it.
    """
    for package in PACKAGES[to]:
        if importlib.util.find_spec(package) is None:
            raise ValueError(
                f"--format {to.value} needs {package}, which is not installed: pip install 'sam-variants[export]'"
            )


def write_part(name: str, part: Part, to: Format, folder: Path, opset: int | None = None) -> Written:
    """Write a part into a folder, run the file and compare it with the part.

    Args:
        name: of the part.
        part: what is written.
        to: the format.
        folder: where to.
        opset: version of ONNX's operators; None for PyTorch's choice.

    Raises:
        ValueError: when the file gives something else than the model.
    """
    file = folder / f"{name}.{to.value}"
    WRITERS[to](trace(part), part, file, opset)
    found = differences(part, READERS[to](file))
    for output, value in found.items():
        if not value <= LARGEST_DIFFERENCE:
            raise ValueError(
                f"{file.name} gives other {output} than the model: the largest difference is {value:.1e}, allowed are "
                f"{LARGEST_DIFFERENCE:.0e}; nothing was written"
            )
    return Written(file.name, found)


def differences(part: Part, run: Run, seed: int = 0) -> dict[str, float]:
    """The largest difference between a part and its file over several sizes, by output, as `difference` measures it."""
    found = dict.fromkeys(part.outputs, 0.0)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for sizes in unlike(part, TRIED_SIZES):
            inputs = part.example(sizes)
            wanted = as_list(part.module(**inputs))
            for name, answer, right in zip(part.outputs, run(inputs), wanted, strict=True):
                found[name] = max(found[name], difference(answer, right))
    return found


def unlike(part: Part, tried: tuple[dict[str, int], ...]) -> list[dict[str, int]]:
    """Of several sizes those that differ in what the part leaves free."""
    free = sorted(part.free_sizes())
    return list({tuple(sizes[name] for name in free): sizes for sizes in tried}.values())


def difference(found: Tensor, wanted: Tensor) -> float:
    """The largest difference in units of the root mean square of what is wanted; infinite where there is none."""
    if found.shape != wanted.shape:
        return float("inf")
    found, wanted = found.double(), wanted.double()
    scale = wanted.square().mean().sqrt().clamp(min=SMALLEST_SCALE)
    largest = ((found - wanted).abs().max() / scale).item()
    return largest if largest == largest else float("inf")


def as_list(answer: Any) -> list[Tensor]:
    return [answer] if isinstance(answer, Tensor) else list(answer)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without what the exporters tell about themselves; errors are raised as ever."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
