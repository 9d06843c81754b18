"""Where things are.

``GOLDENS_DIR`` names another folder than the stored goldens, such as one that
``tests/reference/make_goldens.py --out DIR --seed N`` has just written.
"""

import os
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
PACKAGE = ROOT / "mlx_gemma4_assist"
TOOLS = ROOT / "tools"
EXAMPLES = ROOT / "examples"
ASSETS = PACKAGE / "assets"  # the embedded pair and the bundled prompts
PHOTO = TESTS / "data" / "grace_hopper.jpg"

GOLDENS = Path(os.environ.get("GOLDENS_DIR", TESTS / "goldens"))
FAMILIES = ("e2b", "e4b", "12b", "26b-a4b", "31b")  # folders of it: one for each published size
