"""The notebook that goes through one step with the core alone, cell by cell."""

import json
import subprocess
import sys
from pathlib import Path

NOTEBOOK = Path(__file__).parents[2] / "examples" / "cppo" / "one_step.ipynb"


def test_its_cells_run_and_need_torch_and_kornia_only():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    assert len(code) >= 5 and not any(c.get("outputs") for c in cells)
    more = "import sys; assert not {'areal', 'transformers'} & set(sys.modules)"
    program = "\n".join([*code, more])
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd="/"
    )
    assert done.returncode == 0, done.stderr
