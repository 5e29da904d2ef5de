"""Several devices: the processes that torchrun starts (else there is one), copies to a GPU."""

import atexit
import os
import time

import torch
import torch.distributed as dist

from common.errors import UserError


def rank():
    """This process' number, from 0; process 0 writes the files."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size():
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def join_processes(device, config):
    """Join the processes of a torchrun job (gloo on CPUs, nccl on GPUs); returns the own device.

    The batch is shared out among them, so it has to divide. Raises UserError where it does not.
    Where one of them goes on from the checkpoint, all do: torchrun counts a restart only on the
    host where a process failed, not on those whose processes it stops for that.
    """
    n = int(os.environ.get("WORLD_SIZE", "1"))
    if n == 1:
        return device
    if config.batch_size % n:
        raise UserError(
            f"--batch-size {config.batch_size} can't be shared evenly by {n} processes:"
            f" give a multiple of {n}"
        )
    if device.type == "mps":
        device = torch.device("cpu")  # gloo exchanges no tensors that lie on MPS
    if device.type == "cuda":
        local, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= there:
            raise UserError(
                f"{local + 1} processes or more for {there} GPUs: lower --nproc-per-node, or give"
                " --device cpu"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    atexit.register(_leave)
    config.resume = any(gather(config.resume))
    return device


def _leave():
    """Leave the job when the process ends.

    Where a DistributedDataParallel was made, gloo's threads outlive the group, and a process that
    ended right after its last exchange aborted now and then: a moment lets them finish it.
    """
    dist.destroy_process_group()
    time.sleep(0.1)


def mean_over_processes(value):
    """The mean of a number over all processes, as a float; each of them has to call this."""
    if world_size() == 1:
        return float(value)
    on = "cuda" if dist.get_backend() == "nccl" else "cpu"
    total = torch.as_tensor(float(value), dtype=torch.float64, device=on)
    dist.all_reduce(total)
    return total.item() / world_size()


def gather(value):
    """A list of every process' value, in order of rank; each of them has to call this."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def to_device(x, y, device):
    """The batch on its device. To a GPU it goes from pinned memory, and nobody waits for that."""
    if device.type != "cuda":
        return x.to(device), y.to(device)
    return tuple(t.contiguous().pin_memory().to(device, non_blocking=True) for t in (x, y))
