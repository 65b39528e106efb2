"""What a train step computes and holds, counted while it runs.

**Floating-point operations** are those of matrix products, convolutions and attention,
two for each multiply-add, forward, again under gradient checkpointing, and backward:
torch's own formulas (`torch.utils.flop_counter`). Attention is counted by its kernel:
one that is told to be causal skips what lies above the diagonal and counts as half, one
that gets a mask computes all products and counts in full; for packed rows under torch's
flash-attention the products within each sequence are added up. The optimiser, the
loss's elementwise part and the perturbations of images are not counted.

**Tokens** are those that enter the text model's first layer, **patches** those that
enter the vision tower, padding included, in forward passes; computing again in a
backward pass does not count.

**Memory** is the peak of the bytes of all live tensors, exactly: those of weights,
optimiser and batch that are there before, and every storage that an operation returns,
until it is freed. What a kernel allocates for itself is not seen. (On a GPU the
allocator knows better, and its peak is taken.) torch's own `FlopCounterMode` keeps
tensors alive that it has seen, which would count, and its `MemTracker` takes no module
that is called twice in a step.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    is_traceable_wrapper_subclass,
)
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import (
    flop_registry,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

_SDPA_KERNELS = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
)


@dataclass
class Counts:
    """Of one train step."""

    flops: int = 0
    tokens: int = 0
    patches: int = 0
    peak_bytes: int = 0


@contextmanager
def count_step(model: nn.Module, resident: Iterable[Tensor]):
    """Count what runs within; the numbers are there at its end.

    Parameters
    ----------
    model
        AReaL's `actor.model`, of the Qwen-VL family.
    resident
        Tensors that are there before: weights, the optimiser's state, the batch.
    """
    counts = Counts()

    def count(name: str, size: Callable[[Tensor], int]):
        def hook(module, args, kwargs):
            computing_again = torch._C._current_graph_task_id() != -1
            if not computing_again:
                (first, *_) = (*args, *kwargs.values())
                setattr(counts, name, getattr(counts, name) + size(first))

        return hook

    hooks = (
        (model.model.language_model.layers[0], "tokens", lambda x: x[..., 0].numel()),
        (model.model.visual, "patches", len),
    )
    counter = Counter(resident)
    with ExitStack() as stack:
        for module, *what in hooks:
            handle = module.register_forward_pre_hook(count(*what), with_kwargs=True)
            stack.callback(handle.remove)
        stack.enter_context(counter)
        yield counts
    counts.flops, counts.peak_bytes = counter.flops, counter.peak


def attention_formulas() -> dict[Any, Callable[..., int]]:
    """Formulas for attention kernels, by operator; those not built in are left out."""
    formulas = {}
    for name in _SDPA_KERNELS:
        for suffix, formula, n in (
            ("", sdpa_flop_count, 3),
            ("_backward", sdpa_backward_flop_count, 4),
        ):
            op = getattr(torch.ops.aten, name + suffix)
            formulas[op] = _sdpa_formula(op, formula, n)
    aten = torch.ops.aten  # torch's own formulas for these know no causal mask
    for op, first, products in (
        (aten._flash_attention_forward, 0, 2),
        (aten._flash_attention_backward, 1, 5),
    ):
        formulas[op] = _packed_formula(op, first, products)
    return formulas


def _arguments(op, args, kwargs) -> dict[str, Any]:
    """An operator's arguments by name."""
    names = [a.name for a in op._schema.arguments]
    return dict(zip(names, args)) | kwargs


def _sdpa_formula(op, formula: Callable[..., int], n: int) -> Callable[..., int]:
    def count(*args, out_val=None, **kwargs) -> int:
        shapes = [tensor.shape for tensor in args[:n]]  # [batch, heads, tokens, size]
        heads = max(shape[1] for shape in shapes)  # keys may serve several
        flops = formula(*(torch.Size([b, heads, *rest]) for b, _, *rest in shapes))
        causal = _arguments(op.default, args, kwargs).get("is_causal", False)
        return flops // 2 if causal else flops

    return count


def _packed_formula(op, first: int, products: int) -> Callable[..., int]:
    """For sequences of a packed row: `q` is argument `first`, `[T, heads, size]`."""

    def count(*args, out_val=None, **kwargs) -> int:
        given = _arguments(op.default, args, kwargs)
        queries = given["cum_seq_q"].diff().tolist()
        keys = given["cum_seq_k"].diff().tolist()
        return products * packed_products(
            args[first].shape, queries, keys, given["is_causal"]
        )

    return count


def packed_products(
    shape: torch.Size, queries: list[int], keys: list[int], causal: bool
) -> int:
    """Operations of one product of queries and keys, sequence by sequence.

    Causal from the end: a sequence's last query sees all of its keys.
    """
    pairs = 0
    for n_q, n_k in zip(queries, keys, strict=True):
        pairs += n_q * n_k - (n_q * (n_q - 1) // 2 if causal else 0)
    return 2 * pairs * shape[-2] * shape[-1]


class Counter(TorchDispatchMode):
    """Counts floating-point operations and live bytes while it is active.

    Parameters
    ----------
    resident
        Tensors that are there before and count from the start.
    """

    def __init__(self, resident: Iterable[Tensor] = ()):
        super().__init__()
        self.flops = self.current = self.peak = 0
        self._formulas = flop_registry | attention_formulas()
        self._sizes: dict[int, int] = {}  # by the storage's id, while it lives
        self._resize = torch.UntypedStorage.resize_
        for tensor in resident:
            self._see(tensor)

    def __enter__(self):
        mode = self

        def resize_(storage, size):
            # FSDP frees and regains gathered weights this way, past the dispatcher.
            result = mode._resize(storage, size)
            if id(storage) in mode._sizes:
                mode._set(id(storage), storage.nbytes())
            return result

        torch.UntypedStorage.resize_ = resize_
        return super().__enter__()

    def __exit__(self, *exception):
        torch.UntypedStorage.resize_ = self._resize
        return super().__exit__(*exception)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        formula = self._formulas.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=result)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._see(leaf)
        return result

    def _see(self, tensor: Tensor) -> None:
        if is_traceable_wrapper_subclass(tensor):  # a DTensor
            for name in tensor.__tensor_flatten__()[0]:
                part = getattr(tensor, name)
                if isinstance(part, Tensor):
                    self._see(part)
            return
        storage = tensor.untyped_storage()
        key = id(storage)  # torch keeps the Python object as long as the storage
        if key not in self._sizes:
            weakref.finalize(storage, self._forget, key)
            self._sizes[key] = 0
        self._set(key, storage.nbytes())

    def _set(self, key: int, size: int) -> None:
        self.current += size - self._sizes[key]
        self._sizes[key] = size
        self.peak = max(self.peak, self.current)

    def _forget(self, key: int) -> None:
        self.current -= self._sizes.pop(key)
