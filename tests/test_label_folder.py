"""What a labeling run leaves when it is stopped anywhere: by a kill, a full disk, another writer, a damaged file."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from labeled_rows import BATCH, Rows, files_in, label_all, label_part, open_folder, result

from sam_variants.labeling import contact_sheet
from sam_variants.labeling.items import FailedImage
from sam_variants.labeling.label_folder import LabelFolder
from sam_variants.labeling.whole_files import remove_drafts

SOURCE = Rows((6, 3))  # of which the first part makes two shards, and one image of it fails
FINISHED = {"README.md", "errors.jsonl", "instances.json", "contact_sheet.jpg", "manifest.json"}
CALLS = ("open", "write", "fsync", "replace", "link", "unlink", "mkdir", "ftruncate")
FREE_CALLS = ("unlink", "ftruncate")  # these need no room on a disk
PHASES = ("label", "finish")
MANY_CALLS = 20


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test takes the power away, so that nobody needs to wait for the disk."""
    monkeypatch.setattr(contact_sheet, "TILE", 8)
    monkeypatch.setattr(contact_sheet, "MAX_IMAGES", 2)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def whole(tmp_path: Path, fast: None) -> dict[str, str]:
    """The files of an undisturbed run."""
    label_all(tmp_path / "whole", SOURCE)
    return files_in(tmp_path / "whole")


class Phase:
    """One half of a run: until all is labeled, or the end of it."""

    def __init__(self, name: str, tmp_path: Path) -> None:
        self.name, self.begun = name, tmp_path / "begun"
        if name == "finish":
            label_all(self.begun, SOURCE, finish=False)

    def begin(self, out: Path) -> Path:
        if self.name == "finish":
            shutil.copytree(self.begun, out)
        return out

    def run(self, out: Path) -> None:
        if self.name == "label":
            label_all(out, SOURCE, finish=False)
        else:
            LabelFolder.attach(out).finish(2)

    def check(self, out: Path, whole: dict[str, str]) -> None:
        """What is under its own name is what an undisturbed run writes; going on gives all of it, and nothing else."""
        for name, digest in _lasting(out).items():
            assert name == "README.md" or digest == whole[name], name
        self.run(out)
        if self.name == "label":
            expected = {name: digest for name, digest in whole.items() if name not in FINISHED}
            found = {name: digest for name, digest in _lasting(out).items() if name != "README.md"}
        else:
            expected, found = whole, _lasting(out)
            assert not (out / "journals").exists()
        assert found == expected
        for folder in (out, out / "data", out / "progress"):
            remove_drafts(folder, 0)
        assert all(not path.name.startswith(".") for path in out.rglob("*"))
        shutil.rmtree(out)


def _lasting(out: Path) -> dict[str, str]:
    return {
        name: digest
        for name, digest in files_in(out).items()
        if not Path(name).name.startswith(".") and not name.startswith("journals/")
    }


@contextmanager
def calls_of_the_system(ask: Callable[[str, int, bool], str | None]) -> Iterator[list[int]]:
    """Ask before every call that changes files, and in the middle of writing; yields how many calls there were.

    Args:
        ask: gets the call's name, its number, and whether half of it is done. It answers "half" to be asked again.
    """
    calls, patch = [0], pytest.MonkeyPatch()

    def asking(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if name == "open" and not args[1] & os.O_CREAT:
                return original(*args, **kwargs)
            calls[0] += 1
            number = calls[0]
            if ask(name, number, False) == "half":
                done = original(args[0], memoryview(args[1])[: max(len(args[1]) // 2, 1)]) if name == "write" else None
                ask(name, number, True)
                return original(*args, **kwargs) if done is None else done
            return original(*args, **kwargs)

        return call

    for name in CALLS:
        patch.setattr(os, name, asking(name, getattr(os, name)))
    try:
        yield calls
    finally:
        patch.undo()


def full_from(first: int) -> Callable[[str, int, bool], str | None]:
    """From a call on the disk is full; of a write that fails a part is there."""

    def full(call: str, number: int, is_half: bool) -> str | None:
        if number < first or call in FREE_CALLS:
            return None
        if call == "write" and number == first and not is_half:
            return "half"
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return full


def in_child(work: Callable[[], Any]) -> int:
    """Do something in a process of its own; returns how it ended."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("name", PHASES)
def test_a_kill_at_any_call_of_the_system(name: str, tmp_path: Path, whole: dict[str, str]) -> None:
    """Before it, and in the middle of every write; the process really ends there."""
    phase = Phase(name, tmp_path)
    for number in count(1):
        out = phase.begin(tmp_path / str(number))

        def kill(call: str, reached: int, is_half: bool, number: int = number) -> str | None:
            if reached == number and (call != "write" or is_half):
                os.kill(os.getpid(), signal.SIGKILL)
            return "half" if reached == number else None

        def work(out: Path = out, ask: Callable[..., Any] = kill) -> None:
            with calls_of_the_system(ask):
                phase.run(out)

        status = in_child(work)
        phase.check(out, whole)
        if status == 0:  # there was no such call
            break
        assert status == -signal.SIGKILL, number
    assert number > MANY_CALLS


@pytest.mark.parametrize("name", PHASES)
def test_a_disk_that_is_full_at_any_call(name: str, tmp_path: Path, whole: dict[str, str]) -> None:
    phase = Phase(name, tmp_path)
    failures: list[int | None] = []
    for number in count(1):
        out = phase.begin(tmp_path / str(number))
        try:
            with calls_of_the_system(full_from(number)) as calls:
                phase.run(out)
        except OSError as error:
            failures.append(error.errno)
            assert not [file for file in files_in(out) if ".draft" in file], number
        phase.check(out, whole)
        if calls[0] < number:
            break
    assert len(failures) > 0.6 * number > 0.6 * MANY_CALLS
    assert set(failures) == {errno.ENOSPC}


@pytest.mark.parametrize("limit", [100, 700, 3000, 6000])
def test_a_limit_of_the_file_size_is_an_error_and_no_harm(limit: int, tmp_path: Path, whole: dict[str, str]) -> None:
    """The system itself refuses here, also what other libraries write."""
    out = tmp_path / "out"

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            label_all(out, SOURCE)
        except OSError as error:
            os._exit(3 if error.errno == errno.EFBIG else 4)

    assert in_child(work) == 3
    assert not [file for file in files_in(out) if ".draft" in file]
    label_all(out, SOURCE)
    assert files_in(out) == whole


def test_the_same_writer_goes_on_when_there_is_room_again(tmp_path: Path, whole: dict[str, str]) -> None:
    """Every write fails once."""
    out, failures = tmp_path / "out", []
    folder = open_folder(out, SOURCE)

    def insist(work: Callable[[], None]) -> None:
        for number in range(1, 50):
            try:
                with calls_of_the_system(full_from(number)):
                    return work()
            except OSError as error:
                failures.append(error.errno)
        raise AssertionError("it never succeeds")

    with folder.writer(0) as writer:
        for start in range(0, 6, BATCH):
            insist(lambda start=start: writer.add([result(row) for row in range(start, start + BATCH)]))
            assert writer.rows == start + BATCH
        insist(writer.finish)
    assert len(failures) > 20
    assert set(failures) == {errno.ENOSPC}
    label_all(out, SOURCE)
    assert files_in(out) == whole


@pytest.mark.parametrize(
    ("damage", "rows"),
    [
        (lambda data: data[:-1], 2),
        (lambda data: data[: len(data) // 2 + 40], 2),
        (lambda data: data[:-7] + bytes([data[-7] ^ 1]) + data[-6:], 2),
        (lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:], 0),
        (lambda data: data + data[: len(data) // 2], 4),
        (lambda data: data + os.urandom(500), 4),
        (lambda data: b"", 0),
    ],
)
def test_a_torn_or_damaged_journal_is_read_as_far_as_it_is_whole(
    damage: Callable[[bytes], bytes], rows: int, tmp_path: Path, whole: dict[str, str]
) -> None:
    out = tmp_path / "out"
    label_part(open_folder(out, SOURCE), SOURCE, 0, stop_at=4)
    (journal,) = (out / "journals").iterdir()
    journal.write_bytes(damage(journal.read_bytes()))
    with open_folder(out, SOURCE).writer(0) as writer:
        assert writer.start == rows
    label_all(out, SOURCE)
    assert files_in(out) == whole


def test_the_longest_journal_counts_and_those_of_other_runs_do_not(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "out", SOURCE)
    label_part(folder, SOURCE, 0, stop_at=2)
    journals = folder.out / "journals"
    (short,) = journals.iterdir()
    shutil.copy(short, tmp_path / "short")
    label_part(folder, SOURCE, 0, stop_at=4)
    shutil.copy(tmp_path / "short", journals / f"000000-00000.{'0' * 16}.journal")
    with LabelFolder.attach(folder.out).writer(0) as writer:
        assert writer.start == 4
    assert len(list(journals.iterdir())) == 1
    other = open_folder(tmp_path / "other", SOURCE, model="another")
    (other.out / "journals").mkdir()
    shutil.copy(next(journals.iterdir()), other.out / "journals")
    with other.writer(0) as writer:
        assert writer.start == 0


def test_a_shard_whose_entry_is_missing_is_written_again(tmp_path: Path, whole: dict[str, str]) -> None:
    label_all(tmp_path / "out", SOURCE)
    (tmp_path / "out" / "progress" / "000000-00000.json").unlink()
    folder = open_folder(tmp_path / "out", SOURCE)
    assert not folder.is_done(0)
    assert folder.is_done(1)
    with pytest.raises(ValueError, match="1 of 2 parts aren't labeled yet: 0"):
        folder.finish(2)
    label_all(tmp_path / "out", SOURCE)
    assert files_in(tmp_path / "out") == whole


def test_two_writers_of_one_part_do_no_harm(tmp_path: Path, whole: dict[str, str]) -> None:
    """One that everybody believed dead goes on behind the one that took over, whichever is faster."""
    folder = open_folder(tmp_path / "out", SOURCE)
    batches = [[result(row) for row in range(start, start + BATCH)] for start in range(0, 6, BATCH)]
    with folder.writer(0) as slow:
        slow.add(batches[0])
        with LabelFolder.attach(folder.out).writer(0) as fast:
            assert fast.start == BATCH
            slow.add(batches[1])
            fast.add(batches[1])
            fast.add(batches[2])
            slow.add(batches[2])
            fast.finish()
        label_part(folder, SOURCE, 1)
        folder.finish(2)  # which removes the journals
        slow.finish()
        assert slow.is_done
    assert files_in(tmp_path / "out") == whole


def test_two_processes_finish_at_once(tmp_path: Path, whole: dict[str, str]) -> None:
    label_all(tmp_path / "out", SOURCE, finish=False)
    children = []
    for _ in range(2):
        if (child := os.fork()) == 0:
            os._exit(LabelFolder.attach(tmp_path / "out").finish(2).rows != 8)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert files_in(tmp_path / "out") == whole


def test_finishing_again_leaves_everything_as_it_is(tmp_path: Path) -> None:
    label_all(tmp_path / "out", SOURCE)
    (tmp_path / "out" / "README.md").write_text("what a person made of it")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    folder = LabelFolder.attach(tmp_path / "out")
    assert folder.finish(2) == folder.progress() == (2, 8, 11, 1)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


def test_without_coco_and_then_with_it(tmp_path: Path, whole: dict[str, str]) -> None:
    label_all(tmp_path / "out", SOURCE, finish=False)
    folder = LabelFolder.attach(tmp_path / "out")
    folder.finish(2, coco=False)
    assert "instances.json" not in files_in(folder.out)
    assert "instances.json" not in (folder.out / "README.md").read_text()
    folder.finish(2)
    assert files_in(folder.out) == whole


def test_a_card_that_is_gone_is_written_again(tmp_path: Path, whole: dict[str, str]) -> None:
    label_all(tmp_path / "out", SOURCE)
    (tmp_path / "out" / "README.md").unlink()
    label_all(tmp_path / "out", SOURCE)  # which begins with the card of an unfinished run
    assert files_in(tmp_path / "out") == whole


def test_a_coco_file_of_other_shards_does_not_stay(tmp_path: Path) -> None:
    label_all(tmp_path / "out", SOURCE)
    for name in ("data/000001-00000.parquet", "progress/000001-00000.json"):
        (tmp_path / "out" / name).unlink()
    folder = open_folder(tmp_path / "out", SOURCE)
    with folder.writer(1) as writer:
        writer.add([FailedImage(f"{row}.png", "gone") for row in range(6, 8)])
        writer.add([FailedImage("8.png", "gone")])
        writer.finish()
    folder.finish(2, coco=False)
    assert "instances.json" not in files_in(folder.out)
    assert "instances.json" not in (folder.out / "README.md").read_text()


@pytest.mark.parametrize("is_finished", [False, True])
def test_a_flipped_bit_in_a_shard_is_found_and_named(is_finished: bool, tmp_path: Path, whole: dict[str, str]) -> None:
    label_all(tmp_path / "out", SOURCE, finish=is_finished)
    shard = tmp_path / "out" / "data" / "000000-00001.parquet"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(OSError, match=r"data/000000-00001\.parquet is damaged.*delete.*progress/000000-00001\.json"):
        LabelFolder.attach(tmp_path / "out").finish(2)
    (tmp_path / "out" / "progress" / "000000-00001.json").unlink()
    label_all(tmp_path / "out", SOURCE)
    assert files_in(tmp_path / "out") == whole


def test_shards_that_are_gone_or_shorter_are_named(tmp_path: Path) -> None:
    label_all(tmp_path / "out", SOURCE)
    (tmp_path / "out" / "data" / "000001-00000.parquet").unlink()
    os.truncate(tmp_path / "out" / "data" / "000000-00000.parquet", 100)
    with pytest.raises(
        OSError, match=r"000000-00000\.parquet has 100 bytes instead of.*000001-00000\.parquet is missing"
    ):
        LabelFolder.attach(tmp_path / "out").finish(2)


def test_a_damaged_entry_is_named(tmp_path: Path) -> None:
    label_all(tmp_path / "out", SOURCE, finish=False)
    (tmp_path / "out" / "progress" / "000001-00000.json").write_text('{"file": ')
    with pytest.raises(OSError, match=r"000001-00000\.json' is damaged.*delete it"):
        LabelFolder.attach(tmp_path / "out").progress()
