"""What a result was made on: processor, memory, commit."""

import platform
import re
import subprocess
from pathlib import Path

import torch


def describe_environment(device, dtype, script_sha256):
    """The entry `environment` of result.json."""
    on_gpu = device.type == "cuda"
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name() if on_gpu else device.type,
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        "commit": commit(),
        "script_sha256": script_sha256,
    }


def peak_rss_mb():
    """The most resident memory this process has held so far, in MB (10^6 bytes)."""
    if peak := _told_by_linux("/proc/self/status", "VmHWM"):
        return int(peak.split()[0]) * 1024 / 1e6
    try:
        import resource  # macOS counts in bytes
    except ImportError:
        import psutil  # Windows

        return psutil.Process().memory_info().peak_wset / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def peak_gpu_mb(device):
    """The most that torch has held of a CUDA device's memory so far, or None on another device."""
    return torch.cuda.max_memory_allocated() / 1e6 if device.type == "cuda" else None


def processor():
    """The CPU's name, as far as the system tells it."""
    named = _told_by_linux("/proc/cpuinfo", "model name")  # on ARM there are no names
    return named or platform.processor() or platform.machine()


def _told_by_linux(path, name):
    """The first value of this name in one of Linux's files of names and values, or None."""
    if not Path(path).exists():
        return None
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    found = re.search(rf"^{name}\s*:(.*)$", text, re.MULTILINE)
    return found and found[1].strip()


def commit():
    """The checkout's commit, with a + where files have changed since, or None outside git."""
    command = "git", "-C", str(Path(__file__).parent), "status", "--porcelain=v2", "--branch"
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    head, *rest = done.stdout.splitlines()
    changed = any(not line.startswith("#") for line in rest)
    return head.removeprefix("# branch.oid ") + "+" * changed
