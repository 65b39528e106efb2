"""The core stands alone: it imports with the frameworks made unimportable.

Covers the import and one call of each kind in a fresh interpreter. Does not cover the
rest of the package, which may import AReaL.
"""

import subprocess
import sys
import textwrap
from pathlib import Path

import areal_cppo.core

FORBIDDEN = [
    "areal",
    "sglang",
    "transformers",
    "flash_attn",
    "torchvision",
    "omegaconf",
]

ROOT = Path(areal_cppo.core.__file__).parents[2]

# Run with -I: no PYTHONPATH, hence nothing that the test session itself set up.
PROGRAM = textwrap.dedent(
    f"""
    import sys

    before = set(sys.modules)  # what the environment itself loads at every start
    sys.path.insert(0, {str(ROOT)!r})
    forbidden = {FORBIDDEN!r}

    class Refuse:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in forbidden:
                raise ImportError(name + " was made unimportable")

    sys.meta_path.insert(0, Refuse())
    import torch
    import areal_cppo.core as core

    layout = core.PatchLayout(patch_size=4)
    pixels = core.patchify([torch.zeros(3, 16, 8)], layout)
    config = core.CPLConfig()
    for kind in ("positive", "negative"):
        core.perturb_pixel_values(
            pixels,
            torch.tensor([[1, 4, 2]]),
            layout,
            core.parse_perturbations(getattr(config.views, kind)),
            kind=kind,
            run_seed=0,
            policy_version=0,
        )
    added = sys.modules.keys() - before
    loaded = [n for n in added if n.partition(".")[0] in forbidden]
    assert not loaded, loaded
    """
)


def test_core_imports_without_the_frameworks():
    done = subprocess.run(
        [sys.executable, "-I", "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_public_name_exists_once():
    names = areal_cppo.core.__all__
    assert len(names) == len(set(names))
    for name in names:
        assert hasattr(areal_cppo.core, name), name
