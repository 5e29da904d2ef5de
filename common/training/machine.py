"""What the machine does for a model, and no lesson is about: device, number format, kernels, and
the memory that a training step takes."""

import ctypes
import functools
import os
import platform
import sys

from common.errors import UserError, reason_of
from common.training.cross_entropy import AT_ONCE, Logits
from common.training.processes import share_of, world_size

import torch
import torch.nn.functional as F
from torch.backends import mkldnn as onednn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.checkpoint import checkpoint


def pick_device(name):
    """The torch device for --device: auto takes CUDA, then MPS, then the CPU."""
    if name == "auto":
        mps = torch.backends.mps.is_available()
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()  # a device like meta can't give numbers back
    except (RuntimeError, AssertionError, ValueError) as error:
        why = reason_of(error)
        raise UserError(f"--device {name} can't be used here: {why}; try --device cpu") from None
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # what names no GPU means this one
    return device


def pick_dtype(name, device):
    """The torch dtype for --dtype: auto takes bfloat16 where the processor multiplies in it."""
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        quick = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        names = "_is_avx512_bf16_supported", "_is_amx_tile_supported"
        quick = device.type == "cpu" and any(getattr(torch.cpu, name)() for name in names)
    return torch.bfloat16 if quick else torch.float32


def to_device(x, y, device):
    """This process's rows of a batch on its device. To a GPU they go from pinned memory, and the
    CPU does not wait for the copy."""
    x, y = share_of(x), share_of(y)
    if device.type != "cuda":
        return x.to(device), y.to(device)
    return tuple(t.contiguous().pin_memory().to(device, non_blocking=True) for t in (x, y))


def prepare(model, config, device):
    """Move the model to its device and make its training steps run as the settings say.

    Training steps compute in config.dtype (mixed precision: parameters stay in float32, and the
    cross-entropy is computed in it), with --compile compiled, with --activation-checkpointing
    recomputing the activations of each block. Evaluation and sampling run the plain model in
    float32, and one position of a small model in one thread.
    Where a kernel is quicker than the attention formula of the script and gives the same, which is
    tried, the kernel takes its place, and on CPUs the logits of a training step bring a quicker
    cross-entropy with them. Returns the model itself, changed in place.
    """
    model.to(device)
    dtype = pick_dtype(config.dtype, device)
    for module in model.modules():
        if hasattr(module, "attend") and _is_softmax_attention(module, device):
            module.attend = functools.partial(fused_attention, module, module.attend)
        if isinstance(module, torch.nn.Dropout) and not module.p:
            module.forward = lambda x: x  # nothing to leave out: sampling is a twentieth quicker
        if config.activation_checkpointing and type(module).__name__ == "Block":
            module.forward = functools.partial(_checkpointed, module, module.forward)
    plain, with_onednn = model.forward, onednn.enabled
    is_small = sum(p.nbytes for p in model.parameters()) < 1 << 26  # 64 MB: v6, but not GPT-2

    def step(idx):
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            return plain(idx)

    model.eager_step = step
    if config.compile and not config.sample_only:
        step = _compiled(step, model, config, device)

    def forward(idx, *args, **kwargs):
        if model.training and torch.is_grad_enabled():
            return _logits(step(idx))
        # oneDNN takes longer to set up the GELU of one position than plain kernels to compute it,
        # and threads that wait take longer to wake up than one to compute it, in a small model.
        onednn.enabled, threads = False, torch.get_num_threads()
        torch.set_num_threads(1 if is_small and idx.numel() == 1 else threads)
        try:
            return plain(idx, *args, **kwargs)
        finally:
            onednn.enabled = with_onednn
            torch.set_num_threads(threads)

    model.forward = forward
    return model


def _logits(logits):
    """A training step's logits: in float32, or on CPUs as their cross-entropy takes them."""
    return logits.as_subclass(Logits) if logits.device.type == "cpu" else logits.float()


@torch.no_grad()
def _is_softmax_attention(layer, device):
    """Whether the layer's formula is the kernel's, tried on an example: v2_mean's is not."""
    q, k, v = torch.arange(96.0).sin().view(3, 1, 1, 8, 4).to(device)  # (1, 1, T, D) each
    mask = torch.full((8, 8), -torch.inf, device=device).triu(1)
    found = layer.eval().attend(q, k, v, mask)
    layer.train()
    return torch.allclose(found, F.scaled_dot_product_attention(q, k, v, is_causal=True), atol=1e-3)


def fused_attention(layer, formula, q, k, v, mask):
    """softmax(q k^T / sqrt(D) + mask) v by torch's fused kernel; (B, H, T, D) in and out.

    In bfloat16 on CPUs the layer's own formula is the quicker one. A mask of two dimensions is the
    causal one, which the kernel knows by itself.
    """
    if q.dtype == torch.bfloat16 and q.device.type == "cpu":
        return formula(q, k, v, mask)
    p = layer.dropout.p if layer.training and hasattr(layer, "dropout") else 0.0
    if mask.dim() == 2 and q.shape == k.shape:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
    return F.scaled_dot_product_attention(q, k, v, mask.to(q.dtype), p)


def _checkpointed(block, forward, *args, **kwargs):
    """Keep only what goes into the block; the backward pass computes the rest again."""
    if block.training and torch.is_grad_enabled():
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)
    return forward(*args, **kwargs)


def _compiled(step, model, config, device):
    """The training step compiled, tried once; where that fails, say why and go on without."""
    compiled = torch.compile(step)
    rows = getattr(config, "batch_size", None)
    shape = (config.context_length,) if rows is None else (rows, config.context_length)
    try:
        x, _ = to_device(torch.zeros(shape, dtype=torch.long), torch.zeros(1), device)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            compiled(x).sum().backward()
        model.zero_grad()
    except Exception as error:  # whatever the compiler raises, the model itself still works
        why = reason_of(error)
        print(f"--compile is not possible here, going on without: {why}", file=sys.stderr)
        return step
    return compiled


# ---- Memory --------------------------------------------------------------------------------------


def keep_freed_memory():
    """Have the C library keep what each step frees, up to 256 MB per block, for the next step.

    glibc returns blocks above 32 MB to the system when they are freed, and every step would get
    fresh pages for its logits, which the system clears first: 1.1 to 1.2 times the time per step,
    for 1 % less memory (results/bench-memory.txt). A limit of your own (MALLOC_MMAP_THRESHOLD_,
    GLIBC_TUNABLES) is respected; other C libraries stay as they are.
    """
    own = "mmap_threshold" in os.environ.get("GLIBC_TUNABLES", "")
    if platform.libc_ver()[0] == "glibc" and not own and "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        libc = ctypes.CDLL(None)
        if libc.mallopt(-3, 1 << 28):  # M_MMAP_THRESHOLD; versions before 2.35 refuse so much
            libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: the heap keeps its size


def describe_model(model, estimate):
    """Two lines for people: the parameters by module, and `estimate_memory`'s table."""
    sizes = {n: sum(p.numel() for p in m.parameters()) for n, m in model.named_children()}
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
    The random numbers that dropout draws in them are put back, but not MPS's own: a resumed run,
    which measures again, does so before it continues with those that it was stopped at.
    """
    parameters = sum(p.nbytes for p in model.parameters())
    looked_up = sum(m.weight.nbytes for m in model.modules() if getattr(m, "sparse", False))
    one, two = (_kept(model, config, device, B) for B in (1, 2))
    rows = max(1, getattr(config, "batch_size", 1) // world_size())  # of this process
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    sizes = {
        "parameters": parameters,
        "gradients": parameters - looked_up,  # of a table that is looked up they hold few rows
        "optimizer": sum((1 + ("betas" in g)) * p.nbytes for g in groups for p in g["params"]),
        "activations": one + (rows - 1) * (two - one),
    }
    return {name: n / 1e6 for name, n in sizes.items()}


def _kept(model, config, device, B):
    """Bytes that a pass of B sequences keeps in addition to the parameters."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}  # address -> the storage itself: held, so that no address is given out twice
    blocks = []  # those that are checkpointed, each with its inputs, which is all that it keeps

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor.detach()  # a pass's own output would hold the pass, and so itself, for ever

    def note_inputs(module, args):
        if config.activation_checkpointing and type(module).__name__ == "Block":
            blocks.append((module, args))
            note(args[0])
            note(torch.get_rng_state())  # the same dropout, when it is computed again

    idx = torch.zeros(B, config.context_length, dtype=torch.long, device=device)
    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    drawn_on = [device] if device.type == "cuda" else []  # besides the CPU
    with torch.random.fork_rng(devices=drawn_on), hooks:
        with register_module_forward_pre_hook(note_inputs):
            logits = _logits(model.eager_step(idx))
        F.cross_entropy(logits.flatten(0, -2), idx.flatten())
        # When the backward pass begins there are the logits; on CPUs a buffer, elsewhere, in
        # float32, the gradients of their log-probabilities and of the logits themselves.
        others = 4 * min(AT_ONCE, logits.numel()) if device.type == "cpu" else 2 * logits.nbytes
        largest = sum(storage.nbytes() for storage in kept.values()) + logits.nbytes + others
        if blocks:  # later it recomputes the activations of one block at a time
            block, inputs = blocks[0]
            block.forward.args[1](*inputs)
            largest = max(largest, sum(storage.nbytes() for storage in kept.values()))
    return largest
