"""Whether a running SGLang server holds the weights that a folder holds.

SGLang 0.5.10.post1 offers nothing for it: `/get_weights_by_name` isn't implemented for
Qwen's vision models, and `/weights_checker` only compares with a snapshot of itself.
Log-probs of a probe would not do either: in bfloat16 two kernels differ by more than
one small training step.

So the folder is read once more through the model's own `load_weights`, which knows
about fused matrices, tensor parallelism, padded vocabularies and experts; but every
copy into a parameter is caught, and compared with what is there, to the last bit.
Nothing is written. It takes about as long as loading, and memory for one tensor.

Of LoRA adapters (which never touch the model's own weights) what the server holds under
the adapter's name is compared with the folder, after the reader that SGLang loads with.

Not noticed: parameters that the folder lacks (the message counts those that were
compared), buffers, the base weights below an adapter, the copy of an adapter in
the GPU's pool, and a file that was damaged before the server read it. Refused, not
passed: quantised weights, and loaders that change a parameter in another way than by
copying.
"""

from collections.abc import Iterable, Iterator

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_SHOWN = 3  # names in a message
_aten = torch.ops.aten


class CannotCompare(RuntimeError):
    """The weights are held in a form that a folder's can't be compared with."""


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

    def share(self) -> float:
        """Of the parameters' elements, how many were compared."""
        seen = sum(
            min(sum(parts.values()), self._sizes[place])
            for place, parts in self._compared.items()
        )
        return seen / max(1, sum(self._sizes.values()))

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


def compare_model(model: torch.nn.Module, weights: Iterator) -> str | None:
    """What differs between a model and named weights; None: nothing does.

    Parameters
    ----------
    model
        With SGLang's `load_weights`.
    weights
        Of (name, tensor), as in the files.

    Raises
    ------
    CannotCompare
        The loader does something else than copying.
    """
    with torch.no_grad(), CopyComparer(model.named_parameters()) as comparer:
        model.load_weights(weights)
    if comparer.different:
        shown = ", ".join(comparer.different[:_SHOWN])
        return f"{len(comparer.different)} parameters differ, such as {shown}"
    if comparer.share() < 0.5:
        return f"only {comparer.share():.0%} of the parameters could be compared"
    return None


def compare_adapter(held: torch.nn.Module, fresh: torch.nn.Module) -> str | None:
    """What differs between two of SGLang's `LoRAAdapter`s; None: nothing does."""
    for number, (one, other) in enumerate(zip(held.layers, fresh.layers, strict=True)):
        if set(one.weights) != set(other.weights):
            return f"layer {number} of the adapter holds other matrices"
        for name, tensor in one.weights.items():
            if not torch.equal(tensor.cpu(), other.weights[name].cpu()):
                return f"{name} of the adapter differs"
    if held.scaling != fresh.scaling:
        return f"the adapter's scaling is {held.scaling}, not {fresh.scaling}"
    return None


def difference(runner, path: str, adapter: str | None) -> str | None:
    """What differs between an SGLang `ModelRunner` and a folder; None: nothing does."""
    if adapter is not None:
        return _adapter_difference(runner, path, adapter)
    if runner.server_args.quantization or runner.model_config.quantization:
        raise CannotCompare("quantised weights can't be compared with a folder's")
    import copy

    from sglang.srt.configs.load_config import LoadConfig
    from sglang.srt.model_loader.loader import DefaultModelLoader
    from sglang.srt.model_loader.utils import set_default_torch_dtype

    config = copy.copy(runner.model_config)
    config.model_path = path
    loader = DefaultModelLoader(LoadConfig(load_format="auto"))
    source = DefaultModelLoader.Source.init_new(config, runner.model)
    with set_default_torch_dtype(config.dtype):
        return compare_model(runner.model, loader._get_weights_iterator(source))


def _adapter_difference(runner, path: str, adapter: str) -> str | None:
    from sglang.srt.lora.lora import LoRAAdapter
    from sglang.srt.lora.lora_config import LoRAConfig

    manager = runner.lora_manager
    held = [
        manager.loras[ref.lora_id]
        for ref in manager.lora_refs.values()
        if ref.lora_name == adapter
    ]
    if not held:
        return f"there is no adapter {adapter}"
    fresh = LoRAAdapter(
        "compared",
        LoRAConfig(path),
        manager.base_hf_config,
        manager.load_config,
        manager.lora_backend,
    )
    fresh.initialize_weights()
    return compare_adapter(held[0], fresh)


def compare_in_scheduler(scheduler, path: str, adapter: str | None = None) -> None:
    """In every scheduler process of a server at once: raise unless all are equal.

    Raises
    ------
    RuntimeError
        On each rank, with what the first rank found that found anything.
    """
    try:
        found = difference(scheduler.tp_worker.model_runner, path, adapter)
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
    from areal.experimental.inference_service.sglang.scheduler import (
        areal_run_scheduler_process,
    )
    from sglang.srt.managers.scheduler import Scheduler

    Scheduler.cppo_compare_weights = compare_in_scheduler
    areal_run_scheduler_process(*args, **kwargs)
