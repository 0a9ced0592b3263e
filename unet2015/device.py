"""Which device and which number format a run uses, chosen aloud or as asked."""

from __future__ import annotations

import torch

from tiling.faults import UsageFault
from tiling.memory import free_memory

__all__ = [
    "choose_device",
    "choose_precision",
    "describe_device",
    "has_fast_bf16",
    "memory_at_hand",
]


def choose_device(name: str = "auto") -> torch.device:
    """Torch device for `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.

    Only `auto` may choose; a device asked for by name and absent is an error.

    Raises
    ------
    UsageFault
        If the named device is unknown or not available here.

    Examples
    --------
    >>> choose_device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageFault(f"--device {name}: unknown; use auto, cpu, cuda, cuda:N or mps") from error
    available = {
        "cpu": device.index in (None, 0),
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if device.type not in available:
        raise UsageFault(f"--device {name}: not supported; use auto, cpu, cuda, cuda:N or mps")
    if not available[device.type]:
        raise UsageFault(
            f"--device {name}: not available on this machine; use --device auto or cpu"
        )
    return device


def has_fast_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # private: may go away
        return bool(probe()) if probe is not None else False
    return False


def choose_precision(name: str, device: torch.device) -> str:
    """`fp32`, `bf16` or `fp16`; `auto` means bf16 where it is fast and fp32 elsewhere.

    Raises
    ------
    UsageFault
        If the name is unknown, or fp16 is asked for on a CPU.
    """
    if name == "auto":
        return "bf16" if has_fast_bf16(device) else "fp32"
    if name not in ("fp32", "bf16", "fp16"):
        raise UsageFault(f"--precision {name}: unknown; use auto, fp32, bf16 or fp16")
    if name == "fp16" and device.type == "cpu":
        raise UsageFault("--precision fp16: not on a CPU; use fp32 or bf16")
    return name


def describe_device(device: torch.device) -> str:
    """One phrase for logs and reports, e.g. `cpu (2 threads)` or `cuda (NVIDIA H200)`."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        return f"cpu ({torch.get_num_threads()} threads)"
    return str(device)


def memory_at_hand(device: torch.device) -> int:
    """Bytes a computation on `device` may use: four fifths of what is free now.

    On a GPU its own memory, else that of the machine, within the limits of the process's control
    groups (`tiling.memory.free_memory`).
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] * 4 // 5
    return free_memory()
