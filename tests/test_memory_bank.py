"""Which frames are remembered and looked at, as SAM 2's video predictor chooses them."""

from __future__ import annotations

import pytest

from sam_variants.memory.memory_bank import FrameRecord, MemoryBank, MemoryRules


def record(name: object = None) -> FrameRecord:
    return FrameRecord(pointer=name, object_score_logit=0.0, iou_score=0.0, mask_logits="mask", memory="memory")


def bank_of(conditioning: list[int], tracked: list[int], **rules: int | bool) -> MemoryBank:
    """A bank whose pointers are the frame's numbers."""
    bank = MemoryBank(MemoryRules(**rules))  # type: ignore[arg-type]
    bank.conditioning.update({frame: record(frame) for frame in conditioning})
    bank.tracked.update({frame: record(frame) for frame in tracked})
    return bank


def looked_at(
    bank: MemoryBank, frame: int, reverse: bool = False
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """(age, frame) of the mask memories and (distance, frame) of the pointers."""
    selection = bank.select(frame, reverse)
    memories = sorted((age, record.pointer) for age, record in selection.memories)
    return memories, sorted((distance, record.pointer) for distance, record in selection.pointers)


def test_the_prompted_frame_and_the_last_six() -> None:
    memories, pointers = looked_at(bank_of([0], list(range(1, 20))), 20)
    assert memories == [(0, 0), *((age, 20 - age) for age in range(1, 7))]
    assert pointers == [*((distance, 20 - distance) for distance in range(1, 16)), (20, 0)]


def test_in_reverse_time_runs_backwards() -> None:
    memories, pointers = looked_at(bank_of([30], list(range(11, 30))), 10, reverse=True)
    assert memories == [(0, 30), *((age, 10 + age) for age in range(1, 7))]
    assert pointers == [*((distance, 10 + distance) for distance in range(1, 16)), (20, 30)]


def test_pointers_of_prompted_frames_to_come_are_not_looked_at() -> None:
    memories, pointers = looked_at(bank_of([0, 9], [1, 2]), 3)
    assert [frame for age, frame in memories if age == 0] == [0, 9]
    assert pointers == [(1, 2), (2, 1), (3, 0)]


def test_with_a_stride_every_so_many_th_frame_beside_the_last() -> None:
    memories, _ = looked_at(bank_of([0], list(range(1, 20)), num_maskmem=4, memory_temporal_stride_for_eval=3), 20)
    assert memories == [(0, 0), (1, 19), (2, 18), (3, 15)]


def test_of_many_prompted_frames_the_nearest() -> None:
    memories, _ = looked_at(bank_of([0, 4, 9, 30], [], max_cond_frames_in_attn=3), 10)
    assert [frame for age, frame in memories if age == 0] == [4, 9, 30]
    # A prompted frame that was not chosen counts as one of the last frames where it is one.
    memories, pointers = looked_at(bank_of([7, 8, 9], [], max_cond_frames_in_attn=2), 10)
    assert memories == [(0, 8), (0, 9), (3, 7)]
    assert pointers == [(1, 9), (2, 8), (3, 7)]


def test_unsigned_distances() -> None:
    assert looked_at(bank_of([3], []), 5)[1] == [(2, 3)]
    assert bank_of([3], [], use_signed_tpos_enc_to_obj_ptrs=False).select(5).pointers[0][0] == 2


def test_a_short_video_has_fewer_pointers() -> None:
    selection = bank_of([0], list(range(1, 20))).select(20, max_pointers=4)
    assert sorted(distance for distance, _ in selection.pointers) == [1, 2, 3, 20]


@pytest.mark.parametrize("stride", [1, 2, 5])
@pytest.mark.parametrize("num_maskmem", [1, 2, 3, 7])
def test_forgetting_loses_nothing_that_is_looked_at(stride: int, num_maskmem: int) -> None:
    rules = {"num_maskmem": num_maskmem, "memory_temporal_stride_for_eval": stride, "max_obj_ptrs_in_encoder": 5}
    forgetful, complete = bank_of([0], [], **rules), bank_of([0], [], **rules)
    for frame in range(1, 80):
        ours, everything = forgetful.select(frame), complete.select(frame)
        assert ours.layout == everything.layout
        assert all(record.memory == "memory" for _, record in ours.memories)
        assert [record.pointer for _, record in ours.pointers] == [record.pointer for _, record in everything.pointers]
        forgetful.tracked[frame], complete.tracked[frame] = record(frame), record(frame)
        forgetful.forget(frame)
    assert len(forgetful.tracked) <= max(forgetful.rules.memory_reach, forgetful.rules.pointer_reach) + 1
    assert [index for index, one in forgetful.tracked.items() if one.mask_logits is not None] == [79]
    assert forgetful.conditioning[0].memory == "memory"
    assert forgetful.conditioning[0].mask_logits is None


def test_a_prompt_replaces_what_was_tracked() -> None:
    bank = bank_of([0], [1, 2, 3])
    bank.add_prompted(2, record("new"), is_conditioning=True)
    assert sorted(bank.tracked) == [1, 3]
    assert sorted(bank.conditioning) == [0, 2]
    bank.add_prompted(3, record("new"), is_conditioning=False)
    found = bank.record(3)
    assert found is not None
    assert found.pointer == "new"
    assert bank.record(77) is None


def test_clearing_around_a_prompted_frame() -> None:
    bank = bank_of([0], list(range(1, 30)), num_maskmem=3)
    bank.clear_around(10)
    assert sorted(bank.tracked) == [*range(1, 7), *range(14, 30)]
