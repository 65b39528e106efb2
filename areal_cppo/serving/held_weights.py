"""Whether weights that came to an SGLang server over the wire have come as a whole.

SGLang 0.5.10.post1 offers nothing for it: its loaders pass over names that they don't
know, `/get_weights_by_name` isn't implemented for Qwen's vision models, and
`/weights_checker` only compares with a snapshot of itself.

So each part of such an update is loaded, and then loaded once more through the model's
own `load_weights`, which knows about fused matrices, tensor parallelism, padded
vocabularies and experts; but this time every copy into a parameter is caught, and
compared with what is there, to the last bit. Nothing is written, and it takes memory
for one tensor. At the end every element of every parameter must have come.

Not noticed: buffers. Refused, not passed: loaders that change a parameter in another
way than by copying.
"""

from collections.abc import Callable, Iterable
from functools import partial, wraps
from importlib import import_module
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_SHOWN = 3  # names in a message
_RECEIVED = "cppo_received"  # of a `ModelRunner`: the parts of an update, so far
_aten = torch.ops.aten


class CannotCompare(RuntimeError):
    """The weights are held in a form that what was sent can't be compared with."""


class CopyComparer(TorchDispatchMode):
    """While active, copies into these parameters are compared instead of made.

    Parameters
    ----------
    parameters
        Names and parameters.

    Attributes
    ----------
    different : list[str]
        Names of parameters a part of which differs.
    """

    def __init__(self, parameters: Iterable[tuple[str, torch.Tensor]]):
        super().__init__()
        self.different: list[str] = []
        self._names: dict[int, str] = {}
        self._sizes: dict[int, int] = {}
        self._compared: dict[int, dict[tuple, int]] = {}
        for name, parameter in parameters:
            place = parameter.untyped_storage().data_ptr()
            self._names.setdefault(place, name)
            self._sizes[place] = max(self._sizes.get(place, 0), parameter.numel())

    def missing(self) -> list[str]:
        """Names of the parameters of which not all elements were compared."""
        return [
            self._names[place]
            for place, size in self._sizes.items()
            if sum(self._compared.get(place, {}).values()) < size
        ]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func._schema.is_mutable and args and isinstance(args[0], torch.Tensor):
            place = args[0].untyped_storage().data_ptr()
            if place in self._names:
                self._caught(func, place, args)
                return args[0]
        return func(*args, **kwargs)

    def _caught(self, func, place: int, args) -> None:
        held = args[0]
        if func.overloadpacket is _aten.copy_:
            new = args[1].to(device=held.device, dtype=held.dtype)
        elif func.overloadpacket in (_aten.fill_, _aten.zero_):
            new = torch.as_tensor(args[1] if len(args) > 1 else 0).to(held)
        else:
            raise CannotCompare(f"{self._names[place]} is loaded by {func}")
        same = (held == new) | ((held != held) & (new != new))  # NaN is NaN
        if not bool(same.all()) and self._names[place] not in self.different:
            self.different.append(self._names[place])
        part = (held.storage_offset(), tuple(held.shape), tuple(held.stride()))
        self._compared.setdefault(place, {})[part] = held.numel()


def _some(names: list[str], what: str) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f"{len(names)} parameters {what}, such as {shown}"


class Received:
    """The parts of one weight update over the wire.

    Parameters
    ----------
    model
        That they are loaded into, by SGLang's `load_weights`.
    """

    def __init__(self, model: torch.nn.Module):
        self._comparer = CopyComparer(model.named_parameters())
        self._cannot = ""

    def load(
        self,
        load_weights: Callable[[Iterable], Any],
        weights: Iterable[tuple[str, torch.Tensor]],
    ) -> None:
        """Load a part, and see what of it the model then holds."""
        weights = list(weights)
        load_weights(weights)
        try:
            with torch.no_grad(), self._comparer:
                load_weights(weights)
        except CannotCompare as error:
            self._cannot = str(error)

    def difference(self) -> str | None:
        """What of the model is not as it was sent; None: all of it is."""
        if self._cannot:
            return self._cannot
        if self._comparer.different:
            return _some(self._comparer.different, "differ")
        missing = self._comparer.missing()
        return _some(missing, "have not come") if missing else None


def difference(runner) -> str | None:
    """What differs between an SGLang `ModelRunner` and the weight update that came over
    the wire last, which is asked about once; None: nothing does."""
    received = runner.__dict__.pop(_RECEIVED, None)
    return received.difference() if received else "nothing has come over the wire"


def recording(update: Callable) -> Callable:
    """`ModelRunner.update_weights_from_distributed`, with its parts `Received`."""

    @wraps(update)
    def update_weights_from_distributed(runner, *args, **kwargs):
        model = runner.model
        if _RECEIVED not in runner.__dict__:
            setattr(runner, _RECEIVED, Received(model))
        received = getattr(runner, _RECEIVED)
        model.load_weights = partial(received.load, model.load_weights)
        try:
            return update(runner, *args, **kwargs)
        finally:
            del model.load_weights  # its class has its own

    return update_weights_from_distributed


def compare_in_scheduler(scheduler) -> None:
    """In every scheduler process of a server at once: raise unless all has come.

    Raises
    ------
    RuntimeError
        On each rank, with what the first rank found that found anything.
    """
    try:
        found = difference(scheduler.tp_worker.model_runner)
    except Exception as error:  # the other ranks wait for this one's answer
        found = f"{type(error).__name__}: {error}"
    from sglang.srt.distributed.parallel_state import get_world_group

    group = get_world_group()
    everyone = [found]
    if group.world_size > 1:
        everyone = [None] * group.world_size
        torch.distributed.all_gather_object(everyone, found, group=group.cpu_group)
    for rank, what in enumerate(everyone):
        if what is not None:
            raise RuntimeError(f"rank {rank}: {what}")


def run_scheduler(*args, **kwargs) -> None:
    """AReaL's scheduler process, with `cppo_compare_weights` to be called in it."""
    from areal_cppo.patches import sglang as patch_sglang
    from areal_cppo.patches.version import installed

    areal = import_module(f"{installed().sglang}.scheduler")
    patch_sglang.scheduler_method(compare_in_scheduler)
    patch_sglang.update_weights_from_distributed(recording)
    areal.areal_run_scheduler_process(*args, **kwargs)
