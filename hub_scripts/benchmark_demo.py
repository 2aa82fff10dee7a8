"""How fast the Space answers, alone and with many visitors at once, and how much memory that takes."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.table import Table

from sam_variants.hub_scripts.benchmark_report import Advance
from sam_variants.hub_scripts.benchmark_settings import DemoSettings
from sam_variants.hub_scripts.benchmark_tables import MISSING, new_table, verdict
from sam_variants.hub_scripts.demo_browser import browser_page, found_browser, open_and_click
from sam_variants.hub_scripts.demo_process import RunningDemo, running_demo
from sam_variants.hub_scripts.demo_session import DemoSession, SessionError

GIBIBYTE = 2**30
PHOTO = Path(__file__).parent / "photos" / "coins.jpg"
SIZE = (1024, 768)
MARGIN = 64
QUANTILE = 0.95
WARM_UP = 2  # clicks of a first visitor, not counted
# What the parts of the run are of the whole.
SHARES = {"start": 0.2, "one": 0.2, "many": 0.6}


@dataclass
class Visits:
    """What visitors saw, in seconds.

    Attributes:
        first: from upload to first mask.
        clicks: from a click to its mask.
        refusals: what was told instead of an answer.
    """

    first: list[float] = field(default_factory=list)
    clicks: list[float] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        """As JSON: how many, medians and 95th percentiles."""
        return {"first_mask": summary(self.first), "click": summary(self.clicks), "refusals": self.refusals}


def measure_demo(settings: DemoSettings, advance: Advance) -> dict[str, Any]:
    """Start the Space in a process of its own, visit it, and end it.

    Args:
        settings: what to measure.
        advance: told by how much the progress goes on.

    Returns:
        `ready_seconds`; `one` and `many`, each with `first_mask` and `click` (count, median and p95 in seconds), `one`
        with its `driver`; `peak_bytes` of the process (None where the system doesn't tell) and `limit_bytes`.

    Raises:
        ValueError: the Space did not start.
    """
    # It needs the extra `demo`.
    from sam_variants.spaces_demo.limits import MEMORY_GIB

    with tempfile.TemporaryDirectory() as folder, running_demo(settings.threads) as demo:
        advance(SHARES["start"])
        photos = write_photos(Path(folder), settings.users + 2)
        visit(demo.url, photos[0], WARM_UP, 0.0)
        driver, one = visit_alone(demo, photos[1], settings)
        advance(SHARES["one"])
        many = visit_together(demo, photos[2:], settings)
        advance(SHARES["many"])
        peak = demo.peak_bytes()
    return {
        "settings": asdict(settings),
        "ready_seconds": demo.ready_seconds,
        "photo": list(SIZE),
        "one": {"driver": driver, **one.report()},
        "many": {"users": settings.users, "driver": "HTTP", **many.report()},
        "peak_bytes": peak,
        "limit_bytes": MEMORY_GIB * GIBIBYTE,
    }


def visit_alone(demo: RunningDemo, photo: Path, settings: DemoSettings) -> tuple[str, Visits]:
    """One visitor, with a browser where there is one; also says which."""
    executable = found_browser() if settings.with_browser else None
    if executable is None:
        return "HTTP", visit(demo.url, photo, settings.clicks, 0.0)
    # Playwright takes no thread that has an event loop, as that of a notebook.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(visit_with_browser, executable, demo.url, photo, settings.clicks).result()


def visit_with_browser(executable: str, url: str, photo: Path, num_clicks: int) -> tuple[str, Visits]:
    with browser_page(executable, url) as page:
        first, clicks = open_and_click(page, photo, places(num_clicks + 1))
        return f"Chromium {page.context.browser.version.partition('.')[0]}", Visits([first], clicks)


def visit_together(demo: RunningDemo, photos: Sequence[Path], settings: DemoSettings) -> Visits:
    """Many visitors who begin at the same moment, each with another photo."""
    barrier = threading.Barrier(len(photos))

    def one(photo: Path) -> Visits:
        barrier.wait()
        return visit(demo.url, photo, settings.clicks, settings.pause)

    with ThreadPoolExecutor(len(photos)) as pool:
        all_visits = list(pool.map(one, photos))
    return Visits(
        [seconds for found in all_visits for seconds in found.first],
        [seconds for found in all_visits for seconds in found.clicks],
        [text for found in all_visits for text in found.refusals],
    )


def visit(url: str, photo: Path, clicks: int, pause: float) -> Visits:
    """Open a photo, click until there is a mask, and then that many times more."""
    found = Visits()
    try:
        with DemoSession(url) as session:
            begin = time.perf_counter()
            session.open(photo)
            for number, (x, y) in enumerate(places(clicks + 1)):
                if number:
                    time.sleep(pause)
                    begin = time.perf_counter()
                session.click(int(x * SIZE[0]), int(y * SIZE[1]))
                (found.clicks if number else found.first).append(time.perf_counter() - begin)
    except SessionError as error:
        found.refusals.append(str(error))
    return found


def write_photos(folder: Path, count: int) -> list[Path]:
    """The same photo, cut out a little differently each time: nothing that is known of one helps with another."""
    generator = np.random.default_rng(0)
    width, height = (side + MARGIN for side in SIZE)
    with Image.open(PHOTO) as opened:
        large = opened.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    paths = []
    for number in range(count):
        left, top = generator.integers(0, MARGIN, 2).tolist()
        paths.append(folder / f"photo{number}.jpg")
        large.crop((left, top, left + SIZE[0], top + SIZE[1])).save(paths[-1], quality=90)
    return paths


def places(count: int) -> list[tuple[float, float]]:
    """Where clicks go, as shares of width and height: the same for all."""
    pairs = np.random.default_rng(1).uniform(0.05, 0.95, (count, 2)).tolist()
    return [(x, y) for x, y in pairs]


def summary(seconds: Sequence[float]) -> dict[str, Any]:
    """Count, median and 95th percentile; None where there is nothing."""
    if not seconds:
        return {"count": 0, "median": None, "p95": None}
    return {
        "count": len(seconds),
        "median": statistics.median(seconds),
        "p95": float(np.quantile(np.asarray(seconds), QUANTILE)),
    }


def demo_tables(report: dict[str, Any]) -> list[Table]:
    """The report for people."""
    settings, (width, height) = report["settings"], report["photo"]
    table = new_table(
        f"the Space, photos of {width}×{height} pixels: seconds",
        "visitors",
        *("driver", "upload to mask, median", "p95", "click to mask, median", "p95", "clicks", "refused"),
        caption=f"many visitors start at once, each with a photo of their own, and click {settings['pause']:g} s after "
        "each answer",
    )
    for name, visits in (("1", report["one"]), (str(settings["users"]), report["many"])):
        cells = [seconds(visits[part][which]) for part in ("first_mask", "click") for which in ("median", "p95")]
        table.add_row(name, visits["driver"], *cells, str(visits["click"]["count"]), str(len(visits["refusals"])))
    whole = new_table("the process", "", "measured", "limit", "reached")
    whole.add_row("start to ready", f"{report['ready_seconds']:.1f} s", "", "")
    peak, limit = report["peak_bytes"], report["limit_bytes"]
    whole.add_row(
        "peak of memory",
        MISSING if peak is None else f"{peak / GIBIBYTE:.2f} GiB",
        f"{limit / GIBIBYTE:g} GiB",
        MISSING if peak is None else verdict(peak <= limit),
    )
    return [table, whole]


def seconds(value: float | None) -> str:
    """Seconds with as many digits as matter."""
    return MISSING if value is None else f"{value:.3f}" if value < 1 else f"{value:.1f}"
