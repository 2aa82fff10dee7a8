"""The report of `sam-variants evaluate` as pictures, of one model or of two beside each other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from sam_variants.default_checkpoint import default_checkpoint
from sam_variants.hub.evaluation_report import check_report
from sam_variants.hub_scripts.evaluation_scores import NOC_CLICKS, NOC_IOUS

INK, PALE_INK, GRID = "#22303c", "#6b7a88", "#e3e8ec"
# A model's colours, from the palest; the two hues differ in lightness, too, for those who see no colours.
HUES = (("#b9d3ea", "#6fa5d2", "#1f5f9e"), ("#f6d3ae", "#e79a4c", "#b3550e"))
BASELINE_INKS = {"flood_fill": "#a9b4bd", "grabcut": "#7d8a95"}
SIZES = {"small": "small\n< 1 %", "medium": "medium\n1–10 %", "large": "large\n> 10 % of image"}
PROMPTED = {"click": "1 click", "three_clicks": "3 clicks", "box": "box"}
FOUND = {"found_50": "found, IoU ≥ 0.5", "found_75": "found, IoU ≥ 0.75", "ar_1000": "AR@1000"}
TRACKED = {"j_and_f": "J&F", "j": "J", "f": "F", "j_first": "J, first\nframe", "j_reappeared": "J, came\nback"}
STYLE: Any = {
    "font.size": 10,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": PALE_INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": GRID,
    "xtick.color": PALE_INK,
    "ytick.color": PALE_INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "savefig.dpi": 150,
}
ON_WHITE = [withStroke(linewidth=3, foreground="white")]
PANEL_WIDTH, PANEL_HEIGHT = 4.8, 3.6  # inches

PLOTTED = ("results", "everything", "video")

# What a model is called, and its report.
Model = tuple[str, Mapping[str, Any]]
Draw = Callable[[Axes, Sequence[Model], str], None]


def write_plots(folder: Path, report: Mapping[str, Any], compare: Path | None, titles: Mapping[str, str]) -> list[Path]:
    """Draw what a report holds.

    Args:
        folder: where to; is made.
        report: what `evaluate` returns.
        compare: the JSON of another model, drawn beside it as far as it was measured on the same sets.
        titles: of the sets, for people.

    Returns:
        The PNG files: "clicks.png", "sizes.png", "noc.png", "everything.png", "video.png" and "latency.png", those of
        what was measured.

    Raises:
        ValueError: `compare` is no report.
        OSError: a file can't be read or written.
    """
    models = [(model_name(report), report)]
    if compare is not None:
        other = read_report(compare)
        name = model_name(other)
        models.append((name if name != models[0][0] else f"{name} ({compare.stem})", other))
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with matplotlib.rc_context(STYLE):
        for name, figure in figures(models, titles):
            written.append(folder / f"{name}.png")
            figure.savefig(written[-1], facecolor="white")
    return written


def read_report(path: Path) -> dict[str, Any]:
    """What `sam-variants evaluate --json` wrote.

    Raises:
        ValueError: another file.
        OSError: it can't be read.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    try:
        check_report(report)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return dict(report)


def measured_in(report: Mapping[str, Any]) -> set[str]:
    """The sets of a report, and "speed" if that was measured."""
    return {name for section in PLOTTED for name in report.get(section, {})} | ({"speed"} & set(report))


def model_name(report: Mapping[str, Any]) -> str:
    """The last part of the checkpoint's name, and the input size."""
    path = Path(report["model"]["checkpoint"])
    own = [default_checkpoint(video=video) for video in (False, True)]
    return f"{'embedded' if path in own else path.name}, {report['model']['image_size']} px"


def figures(models: Sequence[Model], titles: Mapping[str, str]) -> Iterator[tuple[str, Figure]]:
    """Each figure with its name."""
    report = models[0][1]
    prompted, found = list(report.get("results", {})), list(report.get("everything", {}))
    counted = [name for name in prompted if "noc_counts" in report["results"][name]["model"]]
    if prompted:
        yield "clicks", panels("Mean IoU after each click", prompted, models, titles, draw_clicks)
        yield "sizes", panels("Mean IoU by size of object", prompted, models, titles, draw_sizes)
    if counted:
        yield "noc", panels(f"Clicks to an IoU of {NOC_IOUS['90']:.2f}", counted, models, titles, draw_counts)
    if found:
        yield "everything", panels("Objects found by everything mode", found, models, titles, draw_found)
    if tracked := list(report.get("video", {})):
        yield "video", panels("Objects followed from one click", tracked, models, titles, draw_tracked)
    if "speed" in report:
        yield "latency", latency_figure(models)


def panels(heading: str, sets: Sequence[str], models: Sequence[Model], titles: Mapping[str, str], draw: Draw) -> Figure:
    """A panel for each set, two in a row, with one legend."""
    columns = min(2, len(sets))
    rows = -(-len(sets) // columns)
    figure = Figure(figsize=(max(6.0, PANEL_WIDTH * columns), PANEL_HEIGHT * rows + 1.0), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for place, name in zip(axes, sets, strict=False):
        draw(place, models, name)
        place.set_title(titles.get(name, name))
    for place in axes[len(sets) :]:
        place.set_axis_off()
    figure.suptitle(heading, x=0.01, ha="left", fontsize=14, fontweight="bold", color=INK)
    entries: dict[str, Any] = {}
    for place in axes:
        handles, labels = place.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    for columns in range(min(len(entries), 3), 0, -1):
        where: dict[str, Any] = {"loc": "outside lower left", "ncols": columns, "labelcolor": INK}
        legend = figure.legend(entries.values(), entries.keys(), **where)
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            break
        legend.remove()
    return figure


def draw_clicks(axes: Axes, models: Sequence[Model], name: str) -> None:
    """Mean IoU after each click, of the models and the first one's baselines."""
    for method, ink in BASELINE_INKS.items():
        values = summary_of(models[0][1], name, method).get("by_click")
        if values:
            x = np.arange(1, len(values) + 1)
            axes.plot(x, 100 * np.array(values), color=ink, lw=1.5, ls="--", label=method.replace("_", " "))
    # The first model's last number stands above its curve, the second one's below.
    for (label, report), hue, drop in zip(models, HUES, (8, -16), strict=False):
        values = summary_of(report, name, "model").get("by_click")
        if values:
            x, y = np.arange(1, len(values) + 1), 100 * np.array(values)
            axes.plot(x, y, color=hue[-1], lw=2.2, marker="o", ms=4.5, label=label)
            for index, offset, side in ((0, (9, -4), "left"), (-1, (4, drop), "right")):
                place = x[index], y[index]
                axes.annotate(
                    f"{y[index]:.1f}",
                    place,
                    xytext=offset,
                    textcoords="offset points",
                    color=hue[-1],
                    ha=side,
                    weight="bold",
                    path_effects=ON_WHITE,
                )
    most = round(axes.dataLim.x1)
    axes.set_xticks(range(1, most + 1) if most <= 5 else [1, 3, *range(5, most + 1, 5)])
    axes.set_xlim(0.6, most + 0.4)
    lowest = 10 * np.floor(axes.dataLim.y0 / 10)
    axes.set_ylim(lowest, 101)
    axes.set_yticks(np.arange(lowest, 101, 5 if lowest >= 70 else 10))
    axes.set_xlabel("clicks on an object")
    axes.set_ylabel("mean IoU in %")


def draw_sizes(axes: Axes, models: Sequence[Model], name: str) -> None:
    """Mean IoU of small, medium and large objects."""
    draw_bars(axes, [(label, summary_of(report, name, "model")) for label, report in models], PROMPTED)
    axes.set_ylabel("mean IoU in %")


def draw_found(axes: Axes, models: Sequence[Model], name: str) -> None:
    """Shares of small, medium and large objects that everything mode finds."""
    draw_bars(axes, [(label, report.get("everything", {}).get(name, {})) for label, report in models], FOUND)
    axes.set_ylabel("objects in %")


def draw_bars(axes: Axes, summaries: Sequence[Model], measures: Mapping[str, str]) -> None:
    """Bars for each size of object that occurs: for each model, and beside each other its measures."""
    sizes = [size for size in SIZES if any(size in summary for _, summary in summaries)]
    bars = [
        (summary, key, hue[shade], f"{label}: {title}")
        for (label, summary), hue in zip(summaries, HUES, strict=False)
        for shade, (key, title) in enumerate(measures.items())
    ]
    width = 0.84 / len(bars)
    for number, (summary, key, color, label) in enumerate(bars):
        x = np.arange(len(sizes)) + (number - (len(bars) - 1) / 2) * width
        y = np.array([100 * summary.get(size, {}).get(key, np.nan) for size in sizes])
        axes.bar(x, y, 0.92 * width, color=color, label=label)
        for place, value in zip(x, y, strict=True):
            if not np.isnan(value):
                text_size = 8 if len(bars) <= 3 else 6
                axes.annotate(
                    f"{value:.0f}", (place, value), (0, 2), textcoords="offset points", ha="center", fontsize=text_size
                )
    numbers = {size: next(found[size]["objects"] for _, found in summaries if size in found) for size in sizes}
    axes.set_xticks(range(len(sizes)), [f"{SIZES[size]}\n{numbers[size]} objects" for size in sizes])
    axes.set_xlim(-0.6, len(sizes) - 0.4)
    axes.set_ylim(0, 108)
    axes.set_yticks(range(0, 101, 20))


def draw_tracked(axes: Axes, models: Sequence[Model], name: str) -> None:
    """J&F, J and F, and J of the first frame and of objects that came back."""
    found = [
        (label, report.get("video", {}).get(name, {}), hue) for (label, report), hue in zip(models, HUES, strict=False)
    ]
    measures = [key for key in TRACKED if any(key in summary for _, summary, _ in found)]
    width = 0.8 / len(found)
    for number, (label, summary, hue) in enumerate(found):
        x = np.arange(len(measures)) + (number - (len(found) - 1) / 2) * width
        y = np.array([100 * summary.get(key, np.nan) for key in measures])
        bars = axes.bar(x, y, 0.92 * width, color=hue[-1], label=label)
        axes.bar_label(bars, ["" if np.isnan(value) else f"{value:.0f}" for value in y], padding=2, fontsize=8)
    axes.set_xticks(range(len(measures)), [TRACKED[key] for key in measures])
    axes.set_ylim(0, 108)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("in %")


def draw_counts(axes: Axes, models: Sequence[Model], name: str) -> None:
    """How many objects need 1, 2, … clicks, and how many never come there, as shares."""
    counted = [
        (label, np.array(summary["noc_counts"]["90"]), summary["all"]["noc_90"], hue)
        for (label, report), hue in zip(models, HUES, strict=False)
        if "noc_counts" in (summary := summary_of(report, name, "model"))
    ]
    width = 0.86 / len(counted)
    never = NOC_CLICKS + 3  # a gap sets them apart
    x = np.array([*range(1, NOC_CLICKS + 1), never])
    for number, (label, counts, mean, hue) in enumerate(counted):
        shift = (number - (len(counted) - 1) / 2) * width
        axes.bar(x + shift, 100 * counts / counts.sum(), width, color=hue[-1], label=label)
        inside: dict[str, Any] = {"transform": axes.transAxes, "color": hue[-1], "path_effects": ON_WHITE}
        axes.text(0.5, 0.92 - 0.09 * number, f"mean {mean:.2f} clicks", **inside)
    axes.set_xticks([1, 5, 10, 15, NOC_CLICKS, never], ["1", "5", "10", "15", str(NOC_CLICKS), "never"])
    axes.set_xlabel("clicks")
    axes.set_ylabel("objects in %")


def summary_of(report: Mapping[str, Any], name: str, method: str) -> Mapping[str, Any]:
    """What a report says of a method on a set; nothing if it was not measured."""
    found: Mapping[str, Any] = report.get("results", {}).get(name, {}).get(method, {})
    return found


def latency_figure(models: Sequence[Model]) -> Figure:
    """Median times of an image and of a prompt as bars, with a line to the 95th percentile."""
    timed = [(label, report["speed"]) for label, report in models if "speed" in report]
    figure = Figure(figsize=(7.2, 1.5 + 0.75 * 2 * len(timed)), layout="constrained")
    axes = figure.subplots()
    colored = list(zip(timed, HUES, strict=False))
    rows = [(f"{kind}\n{label}", speed[kind], hue) for kind in ("encode", "prompt") for (label, speed), hue in colored]
    for row, (_, times, hue) in enumerate(rows):
        axes.barh(row, times["median_ms"], 0.62, color=hue[-1])
        axes.plot([times["median_ms"], times["p95_ms"]], [row, row], color=hue[1], lw=2.5, solid_capstyle="butt")
        axes.plot(times["p95_ms"], row, color=hue[1], marker="|", ms=12, mew=2.5)
        axes.annotate(
            f"{times['median_ms']:.1f} ms", (times["p95_ms"], row), (8, 0), textcoords="offset points", va="center"
        )
    axes.set_yticks(range(len(rows)), [label for label, _, _ in rows])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", visible=True)
    axes.margins(x=0.18)
    axes.set_xlim(left=0)
    axes.set_xlabel("milliseconds: the bar ends at the median, the line at the 95th percentile")
    first = timed[0][1]
    figure.suptitle(
        f"Time for an image of {first['image_width']}×{first['image_height']} pixels and for a click",
        x=0.01,
        ha="left",
        fontsize=14,
        fontweight="bold",
    )
    return figure
