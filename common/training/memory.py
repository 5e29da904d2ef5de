"""What a model weighs: its parameters by module, and the memory that a training step needs."""

import ctypes
import os
import platform

from common.training.machine import rows_per_process

import torch
import torch.nn.functional as F


def keep_freed_memory():
    """Have the C library keep what each step frees, up to 256 MB per block, for the next step.

    glibc returns blocks above 32 MB to the system when they are freed, and every step would get
    fresh pages for its logits, which the system clears first: up to 1.4 times the time per step,
    for 6 % less memory. A limit of your own (MALLOC_MMAP_THRESHOLD_, GLIBC_TUNABLES) is respected;
    other C libraries stay as they are.
    """
    own = "mmap_threshold" in os.environ.get("GLIBC_TUNABLES", "")
    if platform.libc_ver()[0] == "glibc" and not own and "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        libc = ctypes.CDLL(None)
        if libc.mallopt(-3, 1 << 28):  # M_MMAP_THRESHOLD; versions before 2.35 refuse so much
            libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: the heap keeps its size


def describe_model(model, estimate):
    """Two lines for people: the parameters by module, and `estimate_memory`'s table."""
    sizes = {
        name: sum(p.numel() for p in module.parameters()) for name, module in model.named_children()
    }
    parts = ", ".join(f"{name} {size:,}" for name, size in sizes.items() if size)
    table = ", ".join(f"{name} {size:.0f}" for name, size in estimate.items())
    return [
        f"{sum(p.numel() for p in model.parameters()):,} parameters: {parts}",
        f"memory of a training step: {sum(estimate.values()):.0f} MB ({table})",
    ]


def estimate_memory(model, config, device, optimizers):
    """MB (10^6 bytes) by purpose: parameters, gradients, optimizer (AdamW keeps two averages per
    parameter, Muon one), activations.

    Activations are measured: forward passes of one sequence and of two, in which autograd reports
    what it keeps for the backward pass. What the second sequence adds, each further one takes.
    The random numbers that dropout draws in them are put back, so that a resumed run, which
    measures again, continues with those that it was stopped at.
    """
    parameters = sum(p.nbytes for p in model.parameters())
    looked_up = sum(m.weight.nbytes for m in model.modules() if getattr(m, "sparse", False))
    one, two = (_kept(model, config, device, B) for B in (1, 2))
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    sizes = {
        "parameters": parameters,
        "gradients": parameters - looked_up,  # of a table that is looked up they hold few rows
        "optimizer": sum((1 + ("betas" in g)) * p.nbytes for g in groups for p in g["params"]),
        "activations": one + (rows_per_process(config) - 1) * (two - one),
    }
    return {name: n / 1e6 for name, n in sizes.items()}


def _kept(model, config, device, B):
    """Bytes that a pass of B sequences keeps in addition to the parameters."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}  # address -> the storage itself: held, so that no address is given out twice

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor.detach()  # a pass's own output would hold the pass, and so itself, for ever

    blocks = [m for m in model.modules() if type(m).__name__ == "Block"]
    inputs = []  # of the blocks, which is all that checkpointed ones keep

    def note_inputs(block, args):
        inputs.append(args)
        note(args[0])

    checkpointed = blocks if config.activation_checkpointing else []
    watches = [block.register_forward_pre_hook(note_inputs) for block in checkpointed]
    idx = torch.zeros(B, config.context_length, dtype=torch.long, device=device)
    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    drawn_on = [device] if device.type == "cuda" else []  # besides the CPU
    with torch.random.fork_rng(devices=drawn_on), hooks:
        logits = model.eager_step(idx)
        loss = F.cross_entropy(logits.flatten(0, -2), idx.flatten())
        for watch in watches:
            watch.remove()
        if inputs:  # the backward pass recomputes the activations of one block at a time
            block_forward = blocks[0].forward.args[1]
            block_forward(*inputs[0])
    del loss
    # When the backward pass begins there are the logits and, in float32, the gradients of their
    # log-probabilities and of the logits themselves.
    return sum(storage.nbytes() for storage in kept.values()) + 3 * logits.nbytes
