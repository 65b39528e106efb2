"""The check of tensors' shapes, by the letters that docstrings use."""

from torch import Tensor


def check_shapes(fix: str, **tensors: tuple[Tensor, str]) -> None:
    """Refuse tensors whose shapes do not agree.

        check_shapes("take both at the same tokens", x=(x, "T D"), labels=(labels, "T"))

    Parameters
    ----------
    fix
        What the caller should do.
    tensors
        By their names as arguments, each with its sizes: a letter stands for the same
        size wherever it occurs, a number for itself.

    Raises
    ------
    ValueError
        One line naming the first tensor that does not fit, the shape it should have,
        after which tensor, the shape it has, and the fix.
    """
    sizes: dict[str, int] = {}
    owners: dict[str, str] = {}  # the tensor from which a letter's size is taken
    for name, (tensor, letters) in tensors.items():
        axes = letters.split()
        expected = [str(sizes.get(axis, axis)) for axis in axes]
        fits = len(axes) == tensor.dim() and all(
            size == str(found) or not size.isdigit()
            for size, found in zip(expected, tensor.shape)
        )
        if not fits:
            known = dict.fromkeys(owners[axis] for axis in axes if axis in owners)
            after = f" as of {' and '.join(known)}" if known else ""
            raise ValueError(
                f"{name}: expected shape [{', '.join(expected)}]{after}, found "
                f"{list(tensor.shape)}; {fix}"
            )
        for axis, size in zip(axes, tensor.shape):
            sizes.setdefault(axis, size)
            owners.setdefault(axis, name)
