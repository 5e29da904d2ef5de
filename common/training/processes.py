"""The processes that torchrun starts; without it there is one, and nothing here has an effect."""

import atexit
import os
import time

from common.errors import UserError, reason_of

import torch
import torch.distributed as dist
from torch.nn.utils import parameters_to_vector, vector_to_parameters


def rank():
    """The number of this process, from 0; process 0 writes the files."""
    return dist.get_rank() if _joined() else 0


def world_size():
    """How many processes train together."""
    return dist.get_world_size() if _joined() else 1


def _joined():
    return dist.is_available() and dist.is_initialized()


def join_processes(device, config):
    """Join the processes of a torchrun job (gloo on CPUs, nccl on GPUs); return the own device.

    The rows of a batch are shared out among them, so their number has to divide. Where one of them
    resumes from the checkpoint, all do: torchrun counts a restart only on the host where a process
    failed. Raises UserError where the job can't be joined.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return device
    rows = getattr(config, "batch_size", None)
    try:
        n, local = int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", "0"))
        if rows is not None and n > 0 and rows % n:
            raise UserError(f"--batch-size {rows} for {n} processes: give a multiple of {n}")
        if device.type == "mps":
            device = torch.device("cpu")  # gloo exchanges no tensors that lie on MPS
        if device.type == "cuda":
            if local >= torch.cuda.device_count():
                raise UserError("more processes than GPUs: lower --nproc-per-node, or --device cpu")
            device = torch.device("cuda", local)
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except UserError:
        raise
    except (ValueError, RuntimeError) as error:
        raise UserError(f"job can't be joined ({reason_of(error)}): unset WORLD_SIZE?") from None
    atexit.register(_leave)
    if rows is None and rank() == 0:
        print("each step has one sequence: the processes have nothing to share")
    config.resume = any(gather(config.resume))
    return device


def _leave():
    """Leave the job when the process ends.

    gloo's threads outlive the group, and a process that ends right after its last exchange is
    aborted now and then: a moment lets them finish it.
    """
    dist.destroy_process_group()
    time.sleep(0.2)


def share_of(x):
    """The rows of a batch (B, T) that are this process's; a single sequence (T,) stays as it is."""
    return x[rank() :: world_size()] if x.dim() > 1 else x


def average_gradients(model):
    """Replace each gradient by its mean over the processes: one exchange for a whole step, and one
    for each table whose gradient is sparse.

    It comes after the backward passes of all micro-batches, so gradient accumulation costs no
    exchange of its own.
    """
    if world_size() == 1:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None and not p.grad.is_sparse]
    flat = parameters_to_vector(gradients)  # one message, not many
    dist.all_reduce(flat)
    vector_to_parameters(flat / world_size(), gradients)
    for p in model.parameters():
        if p.grad is not None and p.grad.is_sparse:  # each process has touched rows of its own
            own = p.grad.coalesce()
            rows = gather((own.indices().cpu(), own.values().cpu()))
            indices = torch.cat([indices for indices, _ in rows], dim=1)
            values = torch.cat([values for _, values in rows]) / world_size()
            whole = torch.sparse_coo_tensor(indices, values, p.shape, check_invariants=True)
            p.grad = whole.to(p.device).coalesce()


def gather(value):
    """A list of every process' value, in order of rank; each of them has to call this."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values
