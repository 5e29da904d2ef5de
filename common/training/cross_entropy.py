"""The cross-entropy of a training step on CPUs: torch's result in a fraction of the memory."""

import torch
import torch.nn.functional as F

AT_ONCE = 2**18  # logits that are turned into probabilities at once: 1 MiB, which a cache holds


class CrossEntropy(torch.autograd.Function):
    """The mean of -log softmax(logits)[target] over N rows: logits (N, V), targets (N,) >= 0.

    The gradient, softmax(logits) - one_hot(target) over N, is made with the loss and a few rows at
    a time, so that besides it no (N, V) numbers go to memory and back. torch's own function writes
    the logits in float32, their log-probabilities and three gradients. Computes in float32; the
    gradient has the logits' number format.
    """

    @staticmethod
    def forward(ctx, logits, targets):
        gradient, found = torch.empty_like(logits), torch.empty(len(targets), 1)
        rows = min(len(logits), max(1, AT_ONCE // logits.shape[1]))
        buffer = torch.empty(rows, logits.shape[1])  # stays in the cache
        chunks = (z.split(rows) for z in (logits, targets[:, None], found, gradient))
        for x, y, p, g in zip(*chunks, strict=True):
            probs = buffer[: len(x)].copy_(x)
            torch.softmax(probs, dim=1, out=probs)
            torch.gather(probs, 1, y, out=p)
            probs.scatter_add_(1, y, torch.full_like(p, -1))
            g.copy_(probs.mul_(1 / len(targets)))
        ctx.save_for_backward(gradient)
        if found.min() > 1e-30:
            return -found.log().mean()
        return F.cross_entropy(logits.float(), targets)  # too unlikely for a float32, or not finite

    @staticmethod
    def backward(ctx, upstream):
        if torch.is_grad_enabled():
            raise RuntimeError("no second derivatives: give it logits.as_subclass(torch.Tensor)")
        (gradient,) = ctx.saved_tensors
        return gradient if upstream == 1 else gradient * upstream, None


class Logits(torch.Tensor):
    """What a model returns in a training step on a CPU: a tensor in the step's number format whose
    `F.cross_entropy(logits, targets)` is `CrossEntropy`. With other arguments it is torch's own, in
    float32. All else gives plain tensors; other losses of bfloat16 logits need `logits.float()`."""

    SHAPES = ("flatten", "view", "reshape")  # what they give are logits, too

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            if function is not F.cross_entropy:
                found = function(*args, **(kwargs or {}))
                return found.as_subclass(cls) if function.__name__ in cls.SHAPES else found
            logits, targets = args
            # Classes from 0 to V - 1, one for each row; torch leaves out some others, or refuses.
            usual = tuple(kwargs.values()) == F.cross_entropy.__defaults__ and logits.dim() == 2
            fits = targets.shape == logits.shape[:1] != (0,) and targets.dtype == torch.int64
            if usual and fits and targets.min() >= 0 and targets.max() < logits.shape[1]:
                return CrossEntropy.apply(logits.as_subclass(torch.Tensor), targets)
            return function(logits.float(), targets, **kwargs)
