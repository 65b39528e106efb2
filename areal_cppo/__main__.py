"""`python -m areal_cppo` is `areal-cppo`."""

import sys

from areal_cppo.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
