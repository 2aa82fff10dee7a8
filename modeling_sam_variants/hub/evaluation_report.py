"""What an evaluation command wrote with --json: which command it was, whether it is whole, and of which weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

REPORT_VERSION = 2
"""What `sam-variants evaluate` writes as "version"; its reports without one are of the version before."""
SECTIONS = ("results", "everything", "video", "speed")
"""The parts of such a report, of which each is there if it was measured."""
COMMANDS = {"prompts": "evaluate", "tracking": "evaluate-tracking", "everything": "evaluate-everything"}
SHA256 = re.compile(r"[0-9a-f]{64}")


def kind_of(report: Any) -> str:
    """Which command wrote a report: a key of `COMMANDS`.

    Raises:
        ValueError: for anything else than such a report.
    """
    results, facts = mapping(mapping(report).get("results")), mapping(mapping(report).get("model"))
    is_of_model = {"parameters", "image_size"} <= facts.keys()
    if is_of_model and "version" in report:
        if report["version"] != REPORT_VERSION:
            raise ValueError(
                f"the evaluation has version {report['version']!r}, where {REPORT_VERSION} or none is known: upgrade "
                "sam-variants, or run `sam-variants evaluate --json` again"
            )
        if any(mapping(report.get(section)) for section in SECTIONS):
            return "prompts"
    elif results and is_of_model:
        if "j" in mapping(results.get("session")):
            return "tracking"
        if all("all" in mapping(mapping(found).get("model")) for found in results.values()):
            return "prompts"
        if all("full" in mapping(found) for found in results.values()):
            return "everything"
    commands = ", ".join(f"sam-variants {command} --json" for command in COMMANDS.values())
    raise ValueError(f"this is no evaluation of a model; give what one of these wrote: {commands}")


def mapping(value: Any) -> Mapping[str, Any]:
    """A value that should be a mapping; an empty one for any other."""
    return value if isinstance(value, Mapping) else {}


def check_report(report: Any) -> None:
    """Raise a ValueError unless what a report says of its model, settings and versions is as the commands write it."""
    command = COMMANDS[kind_of(report)]
    facts = report["model"]
    wrong = [
        *(f"model.{name}" for name in ("parameters", "image_size") if not is_count(facts[name])),
        *(name for name in ("settings", "versions") if not isinstance(report.get(name), Mapping | None)),
    ]
    checksums = facts.get("sha256")
    if checksums is not None and not is_checksums(checksums):
        wrong.append("model.sha256")
    if wrong:
        raise ValueError(f"the evaluation is not as `sam-variants {command} --json` writes it: see {', '.join(wrong)}")


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def is_checksums(value: Any) -> bool:
    return bool(mapping(value)) and all(isinstance(found, str) and SHA256.fullmatch(found) for found in value.values())


def check_model(report: Any, num_parameters: int, weights: Sequence[Mapping[str, str]] = ()) -> None:
    """Refuse a report about other weights.

    Args:
        report: what an evaluation command wrote.
        num_parameters: of the model that it should be about.
        weights: file name → sha256 of that model's weights, in every layout in which they may have been measured;
            nothing when they lie in no file.

    Raises:
        ValueError: naming both.
    """
    check_report(report)
    about = report["model"]
    name = repr(about.get("checkpoint"))
    if about["parameters"] != num_parameters:
        raise ValueError(
            f"the evaluation is of another model: of {name} with {about['parameters']:,} parameters, where this one "
            f"has {num_parameters:,}"
        )
    if "sha256" not in about:
        raise ValueError(
            f"the evaluation of {name} does not say which weights it measured: run `sam-variants "
            f"{COMMANDS[kind_of(report)]} --json` again"
        )
    measured = set(about["sha256"].values())
    if weights and all(measured != set(known.values()) for known in weights):
        raise ValueError(
            f"the evaluation is of other weights: of {told(about['sha256'])} in {name}, where these are "
            f"{' or '.join(dict.fromkeys(map(told, weights)))}; evaluate what is pushed"
        )


def told(checksums: Mapping[str, str]) -> str:
    """Files with their sha256, for a message."""
    return ", ".join(f"{name} (sha256 {checksum})" for name, checksum in sorted(checksums.items()))
