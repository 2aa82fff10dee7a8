"""The numbers that matter most, out of the reports of all benchmarks: one short table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from rich.table import Table

from sam_variants.hub_scripts.benchmark_decode import PLAIN, POINT
from sam_variants.hub_scripts.benchmark_encode import BFLOAT16, COMPILED
from sam_variants.hub_scripts.benchmark_generators import OURS, THEIRS
from sam_variants.hub_scripts.benchmark_load import HELP
from sam_variants.hub_scripts.benchmark_loading import PRETRAINED
from sam_variants.hub_scripts.benchmark_tables import MEGABYTE

# Forms of an encoder that have a line.
SUMMARISED = (OURS, COMPILED, BFLOAT16)


class Line(NamedTuple):
    """One line of the summary.

    Attributes:
        work: what is done.
        ours: how long it takes here.
        other: who else does it, and how long.
        speed: how many times as fast we are.
        note: what else there is to know.
    """

    work: str
    ours: str
    other: str = ""
    speed: str = ""
    note: str = ""


def summary_table(reports: Sequence[dict[str, Any]]) -> Table:
    """The lines of all reports, one behind the other."""
    table = Table("", "here", "others", "times as fast", "")
    for report in reports:
        for line in LINES[report["benchmark"]](report):
            table.add_row(*line)
    return table


def duration(seconds: float) -> str:
    """A time with as many digits as matter."""
    if seconds < 0.1:
        return f"{1000 * seconds:.{0 if seconds >= 0.01 else 1}f} ms"
    return f"{seconds:.{0 if seconds >= 100 else 1 if seconds >= 1 else 2}f} s"


def ratio(speed: float) -> str:
    """How many times as fast."""
    return f"{speed:.{0 if speed >= 10 else 1}f}"


def against(name: str, ours: float, theirs: float) -> tuple[str, str]:
    """The cells `other` and `speed`."""
    return f"{name} {duration(theirs)}", ratio(theirs / ours)


def encode_lines(report: dict[str, Any]) -> Iterator[Line]:
    """Each encoder in both precisions, and compiled if it was."""
    for name, section in report["models"].items():
        found, reference = section["contenders"], section["reference"]
        work = f"image encoder of {name}, {section['image_size']} px"
        for form, result in found.items():
            if form not in SUMMARISED:
                continue
            seconds = result["seconds"]
            notes = [] if form == reference else [f"differs by {result['difference']:.0e}"]
            if form == COMPILED:
                notes.append(f"compiled in {duration(result['warm_up_seconds'])}")
            other = ("", "") if form == reference else against(reference, seconds, found[reference]["seconds"])
            yield Line(work + form.removeprefix(OURS), duration(seconds), *other, ", ".join(notes))


def decode_lines(report: dict[str, Any]) -> Iterator[Line]:
    """A click alone, and as many as were given together."""
    for name, section in report["models"].items():
        rows = [row for row in section["rows"] if row["kind"] == POINT]
        for row in (rows[0], rows[-1]):
            found, count = row["contenders"], row["prompts"]
            baseline = THEIRS if THEIRS in found else PLAIN
            ours, theirs = (found[form]["seconds"] / count for form in (OURS, baseline))
            work = f"a click on an encoded image, {name}" if count == 1 else f"each of {count} clicks together, {name}"
            note = f"differs by {found[OURS]['difference']:.0e}"
            yield Line(work, duration(ours), *against(baseline, ours, theirs), note)


def everything_lines(report: dict[str, Any]) -> Iterator[Line]:
    """Each model and image."""
    for name, section in report["models"].items():
        for row in section["rows"]:
            found = row["generators"]
            ours, theirs, same = found[OURS], found.get(THEIRS, {}), row["agreement"].get(THEIRS)
            work = f"everything in {row['megapixels']:g} MP, {row['points_per_side']}² points, {name}"
            notes = [f"{ours['masks']} masks"]
            if same is not None:
                notes = [f"{same['matched']} of {same['theirs']} masks the same, {same['extra']} more"]
            peaks = [f"{one['peak_bytes'] / MEGABYTE:.0f} MB" for one in (ours, theirs) if one.get("peak_bytes")]
            notes += [f"memory {' and '.join(peaks)}"] if peaks else []
            other = against(THEIRS, ours["seconds"], theirs["seconds"]) if "seconds" in theirs else ("", "")
            yield Line(work, duration(ours["seconds"]), *other, "; ".join(notes))


def track_lines(report: dict[str, Any]) -> Iterator[Line]:
    """A frame of the model of real size."""
    for row in report["preset"]["rows"]:
        seconds, count = row["seconds"], row["objects"]
        objects = f"{count} object{'s' * (count > 1)}"
        work = f"a frame of video, {report['settings']['preset']}, {report['preset']['image_size']} px, {objects}"
        other = against(THEIRS, seconds[OURS], seconds[THEIRS]) if THEIRS in seconds else ("", "")
        half = row.get("half_size_times_as_fast")
        note = "" if half is None else f"{ratio(half)} times as fast at half the size"
        yield Line(work, duration(seconds[OURS]), *other, note)


def label_lines(report: dict[str, Any]) -> Iterator[Line]:
    """An image of the fastest run."""
    settings = report["settings"]
    run = min(report["runs"].values(), key=lambda run: run["seconds"] / run["images"])
    ours = run["seconds"] / run["images"]
    loop = report["loops"].get(THEIRS)
    other = against(f"loop over {THEIRS}", ours, loop["seconds"] / loop["images"]) if loop else ("", "")
    work = f"labeling an image of {settings['megapixels']:g} MP, {settings['points_per_side']}² points"
    yield Line(work, duration(ours), *other, f"{100 * run['writing']:.1f} % of it writing")


def load_lines(report: dict[str, Any]) -> Iterator[Line]:
    """First use."""
    starts = report["starts"]
    behind = duration(starts[THEIRS]["seconds"])
    yield Line("`import sam_variants`", duration(starts["added"]["seconds"]), note=f"behind transformers' own {behind}")
    yield Line(f"`{HELP}`", duration(starts[HELP]["seconds"]))
    for name, loads in (
        ("the embedded checkpoint", report["embedded"]),
        (report["settings"]["preset"], report["preset"]),
    ):
        ours, theirs = loads[PRETRAINED], loads.get(THEIRS)
        other = against(THEIRS, ours["seconds"], theirs["seconds"]) if theirs else ("", "")
        peak = ours["peak_bytes"]
        note = "" if peak is None else f"memory peaks at {peak / ours['weights_bytes']:.2f} times the weights"
        yield Line(f"loading {name}", duration(ours["seconds"]), *other, note)


def demo_lines(report: dict[str, Any]) -> Iterator[Line]:
    """A click, alone and among many."""
    many = report["many"]
    for visitors, visits in (("one visitor", report["one"]), (f"{many['users']} visitors at once", many)):
        click, first = visits["click"], visits["first_mask"]
        if click["median"] is not None:
            note = f"95 % within {duration(click['p95'])}; {duration(first['median'])} from upload to mask"
            yield Line(f"a click in the Space, {visitors}", duration(click["median"]), note=note)


LINES: dict[str, Callable[[dict[str, Any]], Iterator[Line]]] = {
    "encode": encode_lines,
    "decode": decode_lines,
    "everything": everything_lines,
    "track": track_lines,
    "label": label_lines,
    "load": load_lines,
    "demo": demo_lines,
}
