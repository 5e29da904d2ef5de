"""What a model weighs: its parameters by module, and the memory that a training step needs."""

import ctypes
import math
import os
import platform
import re
from pathlib import Path

import torch
import torch.nn.functional as F

from common.training.distributed import world_size


def keep_freed_memory(estimate=0):
    """Have the C library keep what a step frees for the next one; True where memory is short.

    glibc takes blocks above 32 MB from the system each time and gives them back when they are
    freed. Logits are such blocks: every step would get fresh pages for them, which the system
    clears first, and on WikiText-2 that took more than a third of a step. The price is memory:
    holes in the heap, the larger its blocks the more, so the largest are left as they were.
    With these holes a run takes more than the `estimate` (MB) of its step. Where three times that
    is not free, memory is short: every block above 1 MB goes back at once, a step takes the memory
    that is estimated, and more time.
    Before glibc 2.39 (its bug 30723) there are many more holes, which come from small change: a
    tensor is cut, aligned, from a longer block, and the few bytes left at its ends go to a cache of
    small blocks and stay there, or something small takes them. When the tensor is freed, its place
    is those bytes too short for the next of its size. glibc reads only when a process starts that
    it shall do without these caches, so that has to stand in front of the command:

        GLIBC_TUNABLES=glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0

    Whoever sets glibc's limit (MALLOC_MMAP_THRESHOLD_, or in GLIBC_TUNABLES) has decided for
    themselves. Versions before 2.35 refuse to raise it, and stay as they are, like other C
    libraries.
    """
    decided = "mmap_threshold" in os.environ.get("GLIBC_TUNABLES", "")
    decided = decided or "MALLOC_MMAP_THRESHOLD_" in os.environ
    if platform.libc_ver()[0] != "glibc" or decided:
        return False
    libc = ctypes.CDLL(None)
    short = 3 * estimate * int(os.environ.get("LOCAL_WORLD_SIZE") or 1) > free_memory()
    if short:
        libc.mallopt(-3, 1 << 20)  # M_MMAP_THRESHOLD: larger blocks are the system's
        libc.mallopt(-1, 1 << 20)  # M_TRIM_THRESHOLD: what is free at the heap's end, too
        libc.malloc_trim(0)
    elif libc.mallopt(-3, 1 << 27):  # blocks up to 128 MB are of the heap
        libc.mallopt(-1, -1)  # which keeps its size
    return short


def free_memory(meminfo="/proc/meminfo", cgroup="/sys/fs/cgroup"):
    """MB (10^6 bytes) that Linux could still hand out, in a container no more than its limit."""

    def number(path, pattern):
        try:
            return int(re.search(pattern, Path(path).read_text(encoding="utf-8"))[1])
        except (OSError, TypeError):  # not there, or without such a line
            return math.inf

    available = number(meminfo, r"MemAvailable: *(\d+) kB") * 1024
    limit = number(f"{cgroup}/memory.max", r"(\d+)")  # "max" where there is none
    if limit < math.inf:
        cached = number(f"{cgroup}/memory.stat", r"inactive_file (\d+)")  # files', given up first
        limit += cached - number(f"{cgroup}/memory.current", r"(\d+)")
    return min(available, limit) / 1e6


def describe_model(model, estimate):
    """Two lines for people: the parameters by module, and `estimate_memory`'s table."""
    total = sum(p.numel() for p in model.parameters())
    sizes = {
        name: sum(p.numel() for p in module.parameters()) for name, module in model.named_children()
    }
    parts = ", ".join(f"{name} {size:,}" for name, size in sizes.items() if size)
    table = ", ".join(f"{name} {size:.0f}" for name, size in estimate.items())
    return [
        f"{total:,} parameters: {parts}",
        f"memory of a training step: {sum(estimate.values()):.0f} MB ({table})",
    ]


def estimate_memory(model, config, device, fused=True):
    """MB (10^6 bytes) by purpose: parameters, gradients, optimizer (AdamW keeps two of each), and
    activations.

    An AdamW that is not `fused` computes after the backward pass in two more of a parameter, and
    holds what is left from the one before. Where that is more than the activations took, the
    difference counts as the optimizer's.
    Activations are measured, not guessed: forward passes of one sequence and of two, in which
    autograd reports what it keeps for the backward pass. What the second adds, each sequence of a
    micro-batch takes, of which a process has its share of batch_size.
    The random numbers that dropout draws in them are put back: a resumed run, which measures once
    more, must go on with those it was stopped at.
    """
    sizes = [p.numel() * p.element_size() for p in model.parameters()]
    parameters = sum(sizes)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    one, two = (_kept(model, config, device, own, B) for B in (1, 2))
    activations = one + (config.batch_size // world_size() - 1) * (two - one)
    between = 0 if fused else max(a + 2 * b for a, b in zip([0, *sizes], sizes, strict=False))
    return {
        "parameters": parameters / 1e6,
        "gradients": parameters / 1e6,
        "optimizer": (2 * parameters + max(0, between - activations)) / 1e6,
        "activations": activations / 1e6,
    }


def _kept(model, config, device, own, B):
    """Bytes that a pass of B sequences keeps beside the parameters, whose storages are `own`."""
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # a pass's own output would hold the pass, and so itself, for ever

    # Checkpointed blocks keep their inputs, and for the one that goes back all that it computes.
    checkpointing, blocks = getattr(model, "checkpointing", False), []

    def before(block, inputs):
        blocks.append([inputs[0].nbytes, sum(kept.values())])

    def after(block, inputs, output):
        blocks[-1].append(sum(kept.values()))

    watched = getattr(model, "blocks", []) if checkpointing else []
    watches = [each.register_forward_pre_hook(before) for each in watched]
    watches += [each.register_forward_hook(after) for each in watched]
    idx = torch.zeros(B, config.context_length, dtype=torch.long, device=device)
    drawn_on = [device] if idx.device.type == "cuda" else []  # besides the CPU
    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == "bfloat16")
    if checkpointing:
        model.checkpointing = False  # whose own hooks would hide what is kept from these
    try:
        with torch.random.fork_rng(devices=drawn_on), hooks, autocast:
            logits = model.forward(idx)  # past --compile, which would compile these batches
            loss = F.cross_entropy(logits.flatten(0, -2), idx.flatten())
    finally:
        if checkpointing:
            model.checkpointing = True
        for watch in watches:
            watch.remove()
    # When the backward pass begins there are the logits, and in float32 the gradients of their
    # probabilities' logarithms and of the logits themselves.
    del loss
    parts = [end - begin for _, begin, end in blocks]  # its input is a part of what a block keeps
    spared = sum(parts) - max(parts, default=0) - sum(nbytes for nbytes, _, _ in blocks[1:])
    return sum(kept.values()) - spared + logits.nbytes + 2 * 4 * logits.numel()
