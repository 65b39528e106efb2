"""What passes of a model keep on a GPU, term by term, from its shape alone.

How many tensors of a size a pass keeps was counted with `areal_cppo.bench.counting` on
AReaL 1.0.4 and transformers 5.3.0, in bf16 with flash-attention's kernel stood in for
(tests/config/test_memory_counted.py counts again). `CUDA` is an assumption.

Bytes throughout. Letters: `T` tokens of a micro-batch, `V` vocabulary.
"""

from __future__ import annotations

import torch

from areal_cppo.config.models import ModelShape
from areal_cppo.core.head import CHUNK

GIB = 2**30
_FP32 = 4
CUDA = 2 * GIB  # with NCCL, and gaps that the allocator leaves
MARKS = 2  # tokens around an image's
VIEW_THREADS = 4  # that make views; a node has a dozen cores a GPU, others want some
# Of an image's bytes: the image, its anchor and its view are half as many each, since
# patches hold it twice; a perturbation's own two, and the view's patches.
_UNDER_WAY = 4


def text_activations(
    shape: ModelShape, tokens: int, passes: int, each: int, checkpointing: bool = True
) -> int:
    """What passes of the text model keep for the backward pass.

    With gradient checkpointing passes x (layers + 6) x T x hidden x `each`: the input
    of every layer; of the ends the embeddings, the last norm and positions. Without it
    every layer keeps what `text_layer` has.
    """
    if not checkpointing:
        return passes * shape.layers * text_layer(shape, tokens, each)
    return passes * (shape.layers + 6) * tokens * shape.hidden * each


def vision_activations(
    shape: ModelShape, patches: int, passes: int, each: int, checkpointing: bool = True
) -> int:
    """What passes of the vision tower keep for the backward pass.

    With gradient checkpointing passes x patches x ((blocks + 7) x width + features) x
    `each`: the input of every block; of the ends the merger, and the patches in the
    dtype computed in. The tower's is a graph under LoRA, too: transformers has the
    embedded patches require gradient.
    """
    if not checkpointing:
        return passes * shape.blocks * vision_layer(shape, patches, each)
    kept = (shape.blocks + 7) * shape.width + shape.features
    return passes * patches * kept * each


def text_layer(shape: ModelShape, tokens: int, each: int) -> int:
    """A text layer computed again, with its gradients: T x (6 x inner + 13 x hidden) x
    `each`, parts of it in fp32."""
    return tokens * (6 * shape.inner + 13 * shape.hidden) * each


def vision_layer(shape: ModelShape, patches: int, each: int) -> int:
    """A vision block likewise: patches x (6 x inner + 17 x width) x `each`."""
    return patches * (6 * shape.vision_inner + 17 * shape.width) * each


def chunked_logits(shape: ModelShape, tokens: int, each: int) -> int:
    """Our head at work on at most CHUNK tokens: CHUNK x V x (2 x `each` + 12).

    Logits and their gradient in the dtype computed in; in fp32 log-probabilities and
    two gradients.
    """
    return min(tokens, CHUNK) * shape.vocabulary * (2 * each + 3 * _FP32)


def whole_logits(shape: ModelShape, rows: int, each: int) -> int:
    """Our head with `speed.response_logits` off: rows x V x (`each` + 16)."""
    return rows * shape.vocabulary * (each + 4 * _FP32)


def stock_logits(
    shape: ModelShape, tokens: int, each: int, published: bool = False
) -> int:
    """AReaL's logits, of all tokens at once: V x (T x (`each` + 8) + 4 x 1,024).

    Logits, in fp32 log-probabilities and probabilities; its loss takes 1,024 rows at a
    time. The published CPPO keeps three passes' logits and four times statistics: V x
    (T x (3 x `each` + 26) + 4 x 1,024).
    """
    kept = 3 * each + 26 if published else each + 2 * _FP32
    return shape.vocabulary * (tokens * kept + _FP32 * min(tokens, 1024))


def gathered_weights(shape: ModelShape, each: int) -> int:
    """What FSDP2 gathers: (2 x root + 2 x layer) x `each`.

    The root's weights through the whole pass, and as much for the buffer they come in,
    which serves the layers afterwards; a layer's, and those of the next.
    """
    return (2 * shape.root + 2 * shape.layer) * each


def reduced_gradients(shape: ModelShape, ranks: int, each: int, reduced: int) -> int:
    """Gradients of FSDP2's largest unit on their way: root x (`each` + r + r / ranks).

    As computed, the input of the reduce-scatter in `actor.grad_reduce_dtype` (fp32: r =
    4), its output.
    """
    return shape.root * (each * ranks + reduced * ranks + reduced) // ranks


def step_pixels(image: int, together: int, *, views: bool) -> int:
    """Images on the GPU: image x together, and of `views` image x 16.

    Those of one forward pass, which a row puts together when it runs
    (`Row.pixel_values`); and what the threads that make views have under way: of each
    an image, its view and what is between them. All others wait on the CPU.

    Parameters
    ----------
    image
        Bytes of one.
    together
        Images of a micro-batch.
    views
        Whether there are any.
    """
    return image * (together + VIEW_THREADS * _UNDER_WAY * views)


def images_at_once(shape: ModelShape, tokens: int, image: int) -> int:
    """Images of so many tokens that a micro-batch of `tokens` holds, at most."""
    return max(1, tokens // (image + MARKS)) if shape.blocks else 0


def gpu_bytes() -> int | None:
    """Memory of the smallest GPU that torch sees; `None`: it sees none."""
    if not torch.cuda.is_available():
        return None
    devices = range(torch.cuda.device_count())
    return min(torch.cuda.get_device_properties(i).total_memory for i in devices)
