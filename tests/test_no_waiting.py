"""What is true on an accelerator, in another process: PyTorch takes a pretended one for real ever after."""

from own_process import assert_checks_pass


def test_on_a_pretended_device() -> None:
    assert_checks_pass("device_checks.py")
