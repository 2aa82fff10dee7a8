"""The same classes are installed with the package, and come with checkpoints as code of their own on the Hub."""

from __future__ import annotations

from typing import Any

PACKAGE = "sam_variants"
# What a saved configuration says of code that lies beside it, as transformers reads it.
REMOTE_CODE_FIELDS = ("auto_map", "custom_pipelines")


def is_installed(kind: type) -> bool:
    """Whether a class is the installed package's own, instead of a copy of it that came with a checkpoint."""
    return kind.__module__.split(".")[0] == PACKAGE


def without_remote_code(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a saved configuration that concern a class.

    The package's own classes do without a checkpoint's code, and what they save comes without it: they would name
    files that aren't there. `sam_variants.hub_scripts.export_remote_code` adds the code of the installed version.

    Args:
        kind: the class that the fields are for.
        values: as they were read.
    """
    if not is_installed(kind):
        return values
    return {name: value for name, value in values.items() if name not in REMOTE_CODE_FIELDS}
