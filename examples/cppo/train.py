"""Train with the configuration of a file: the same as `areal-cppo train`.

python examples/cppo/train.py --config configs/triangles.yaml actor.objective=grpo
"""

import sys

from areal_cppo.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
