"""The embedded pair as a bundle, for the Swift package's tests: tools/swift_cases/tiny.py FOLDER."""

import subprocess
import sys
from pathlib import Path

out = Path(sys.argv[1]) / "tiny.bundle"
command = [sys.executable, "-m", "mlx_gemma4_assist", "export", "--model", "tiny", "--out", str(out), "--copy-weights"]
sys.exit(subprocess.run(command).returncode)
