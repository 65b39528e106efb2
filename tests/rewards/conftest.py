"""Lets the reward processes of the tests find reward_functions."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
