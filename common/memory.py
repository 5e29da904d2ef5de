"""What a model weighs: its parameters by module, and the memory that a training step needs."""

import sys

import torch


def print_model(model, config, device):
    """Print the parameters by module and an estimate of the memory of training, in MB (10^6).

    Activations are measured, not guessed: one forward pass of a single sequence, in which autograd
    reports what it keeps for the backward pass; a micro-batch keeps batch_size times as much.
    """
    total = sum(p.numel() for p in model.parameters())
    parts = []
    for name, module in model.named_children():
        size = sum(p.numel() for p in module.parameters())
        parts.append(f"{name} {size:,}")
    estimate = estimate_memory(model, config, device)
    print(f"{total:,} parameters: {', '.join(parts)}", file=sys.stderr)
    table = ", ".join(f"{name} {size / 1e6:.0f}" for name, size in estimate.items())
    print(f"memory of a step, MB: {sum(estimate.values()) / 1e6:.0f} = {table}", file=sys.stderr)


def estimate_memory(model, config, device):
    """Bytes by purpose: parameters, gradients, optimizer (AdamW keeps two of each), activations."""
    parameters = sum(p.numel() * p.element_size() for p in model.parameters())
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    idx = torch.zeros(1, config.context_length, dtype=torch.long, device=device)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        logits = model(idx)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, -2), idx.flatten())
    logits_bytes = logits.numel() * logits.element_size()  # their gradient is as large
    del loss
    return {
        "parameters": parameters,
        "gradients": parameters,
        "optimizer": 2 * parameters,
        "activations": config.batch_size * (sum(kept.values()) + 2 * logits_bytes),
    }
