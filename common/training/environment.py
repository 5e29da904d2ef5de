"""What a result was made on: processor, memory, commit."""

import platform
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
    status = Path("/proc/self/status")
    if status.exists():  # Linux
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    try:
        import resource  # macOS counts in bytes
    except ImportError:
        import psutil  # Windows

        return psutil.Process().memory_info().peak_wset / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def processor():
    """The CPU's name, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():  # Linux; on ARM it has no names
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit():
    """The checkout's commit, with a + where files have changed since, or None outside git."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, encoding="utf-8")
        if head.returncode:
            return None
        changed = subprocess.run(
            [*git, "status", "--porcelain"], capture_output=True, encoding="utf-8"
        )
        return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
    except OSError:
        return None
