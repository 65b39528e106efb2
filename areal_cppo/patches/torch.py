"""Patches of torch 2.9 to 2.13, and of torchvision: no GPU, and where a store listens.

Importing this module does not import torch.
"""

from __future__ import annotations

import importlib.util
import socket
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

from areal_cppo.patches.upstream import ChangedUpstream, expect_inside, patch

_RENDEZVOUS = "torch.distributed.rendezvous"
_META_REGISTRATIONS = "torchvision._meta_registrations"


@patch(f"{_RENDEZVOUS}:TCPStore")
def tcp_store(
    original: type, listener: Callable[[str, int], socket.socket | None]
) -> Callable:
    """The store of a rendezvous listens on the address that the others are told.

    torch's listens on every address of the machine. `listener(host, port)` gives the
    socket; None leaves the choice to torch.
    https://github.com/pytorch/pytorch/issues/173909
    """
    place = f"{_RENDEZVOUS}:TCPStore"
    expect_inside(f"{_RENDEZVOUS}:_create_c10d_store", "TCPStore")
    if "master_listen_fd" not in (original.__init__.__doc__ or ""):
        raise ChangedUpstream(place, "an argument master_listen_fd", "none")

    @wraps(original, updated=())
    def narrow(host_name: str, port: int, *args: Any, **kwargs: Any) -> Any:
        if args:  # who is the master would not be seen
            raise ChangedUpstream(place, "keywords after host and port", f"{args}")
        if kwargs.get("is_master"):
            listening = listener(host_name, port)
            if listening is not None:
                kwargs["master_listen_fd"] = listening.detach()
        return original(host_name, port, **kwargs)

    return narrow


@patch("torch:tensor", "torch:empty", "torch:zeros")
def tensor_constructors(original: Callable) -> Callable:
    """They make tensors unpinned that SGLang's LoRA wants in pinned memory.

    Pinned memory is for copies to a GPU; without one torch refuses to make any.
    https://github.com/sgl-project/sglang/issues/31894
    """

    @wraps(original)
    def unpinned(*args: Any, pin_memory: bool = False, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    return unpinned


@patch("torch:Tensor.pin_memory")
def tensor_pin_memory(original: Callable) -> Callable:
    """It gives the tensor as it is, as `tensor_constructors` do.

    https://github.com/sgl-project/sglang/issues/31894
    """
    return lambda tensor, *_: tensor


def torchvision_meta_registrations() -> None:
    """An empty module stands for `torchvision._meta_registrations`.

    The published wheel is built for CUDA. Without CUDA its operators don't load, and
    this module, which registers shapes for them, takes all of torchvision with it.
    Its Python transforms are all that is used. Does nothing without torchvision.
    https://github.com/pytorch/vision/issues/9085
    """
    package = importlib.util.find_spec("torchvision")
    if package is None or package.origin is None:
        return
    if not Path(package.origin).with_name("_meta_registrations.py").is_file():
        raise ChangedUpstream(f"{_META_REGISTRATIONS}:", "the module", "none")
    sys.modules.setdefault(_META_REGISTRATIONS, ModuleType(_META_REGISTRATIONS))
