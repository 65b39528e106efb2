"""The check of shapes. Which function asks for what is tested beside each function."""

import re

import pytest
import torch

from areal_cppo.core.shapes import check_shapes


def test_letters_agree_and_numbers_stand_for_themselves():
    x = torch.zeros(2, 3)
    check_shapes("mend", x=(x, "T D"), ids=(x[:, 0], "T"), other=(x.T, "3 T"))
    check_shapes("mend", empty=(x[:0], "T D"), ids=(x[:0, 0], "T"))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"x": ((2, 3, 4), "T D")}, "x: expected shape [T, D], found [2, 3, 4]; mend"),
        ({"x": ((2, 4), "T 3")}, "x: expected shape [T, 3], found [2, 4]; mend"),
        (
            {"x": ((2, 3), "T D"), "ids": ((3,), "T")},
            "ids: expected shape [2] as of x, found [3]; mend",
        ),
        (
            {"x": ((2,), "T"), "y": ((3,), "D"), "z": ((2, 2, 1), "T D S")},
            "z: expected shape [2, 3, S] as of x and y, found [2, 2, 1]; mend",
        ),
    ],
)
def test_refusals_name_what_was_expected_and_after_which_tensor(tensors, message):
    made = {name: (torch.zeros(size), axes) for name, (size, axes) in tensors.items()}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_shapes("mend", **made)
