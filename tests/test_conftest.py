"""The shared fixtures do what the tests that use them rely on."""

from __future__ import annotations

import torch


def test_poison_empty_reaches_every_constructor(poison_empty: None) -> None:
    tensors = (torch.empty(2), torch.empty_like(torch.ones(2)), torch.ones(1).new_empty(2), torch.Tensor(2))
    assert all(tensor.isnan().all() for tensor in tensors)


def test_poison_empty_spares_what_is_written(poison_empty: None) -> None:
    assert torch.nn.Linear(3, 2).weight.isfinite().all()
    assert torch.zeros(2).eq(0).all()
