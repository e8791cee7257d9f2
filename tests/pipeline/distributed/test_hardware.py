"""Devices by name, and what a config says of them instead."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from data.errors import GenctrError
from pipeline.config.train import HardwareConfig
from pipeline.distributed.hardware import DEVICES, GIB, device_here, find_device

NOTHING = HardwareConfig()


def test_a_device_is_found_by_name() -> None:
    assert find_device("h100", NOTHING) is not None
    assert find_device("h100", NOTHING).memory == 80 * GIB
    assert find_device("cpu", NOTHING).memory == 12 * GIB


def test_what_the_config_says_is_taken_instead() -> None:
    hardware = HardwareConfig(hbm_gib=94, inter_gb_s=100, tflops=60)

    device = find_device("h100", hardware)

    assert device.hbm == 94 * GIB
    assert device.bandwidths["inter_host_bw"] == 100e9 / 1e3  # bytes a millisecond
    assert (device.flops, device.bf16_flops) == (60e12, 60e12)
    assert device.intra_bw == DEVICES["h100"].intra_bw


CHANGED = {
    "hbm_gib": {"hbm": 3 * GIB},
    "ddr_gib": {"ddr": 3 * GIB},
    "hbm_gb_s": {"hbm_bw": 3e9},
    "ddr_gb_s": {"ddr_bw": 3e9},
    "link_gb_s": {"link_bw": 3e9},
    "intra_gb_s": {"intra_bw": 3e9},
    "inter_gb_s": {"inter_bw": 3e9},
    "tflops": {"flops": 3e12, "bf16_flops": 3e12},
}


def test_every_setting_changes_what_it_is_called_after_and_nothing_else() -> None:
    found = {key: find_device("a100", HardwareConfig.model_validate({key: 3.0})) for key in CHANGED}

    assert found == {key: replace(DEVICES["a100"], **changed) for key, changed in CHANGED.items()}
    assert CHANGED.keys() == HardwareConfig.model_fields.keys() - {"device"}


def test_an_unknown_device_is_told_with_the_nearest() -> None:
    with pytest.raises(GenctrError, match=r"no device 'a100-40'; did you mean 'a100-40gb'\?\n  next: .*train\.hardware"):
        find_device("a100-40", NOTHING)


@pytest.mark.parametrize("device", DEVICES.values(), ids=lambda device: device.name)
def test_a_card_is_faster_than_what_is_around_it(device) -> None:
    assert device.intra_bw >= device.inter_bw > 0
    if device.kind == "cuda":
        assert device.hbm_bw > device.link_bw


@pytest.mark.parametrize(
    ("told", "gib", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", 80, "a100"),
        ("NVIDIA A100-SXM4-40GB", 40, "a100-40gb"),
        ("NVIDIA H100 80GB HBM3", 80, "h100"),
        ("NVIDIA H200", 141, "h200"),
        ("NVIDIA GH200 480GB", 96, None),  # its GPU has 96 GB, an H200 141
        ("NVIDIA RTX A1000", 8, None),
    ],
)
def test_a_card_is_known_by_what_torch_calls_it(told: str, gib: int, name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: told)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: SimpleNamespace(total_memory=gib * GIB))

    found = device_here(torch.device("cuda", 0), NOTHING)

    assert (found.name if found is not None else None) == name
