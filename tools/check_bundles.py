"""All families at tiny scale in all formats: exported, and compared with the package by both engines of bundles.

    python tools/check_bundles.py

A line for each tells what was compared, as ``export`` does; what differs ends it. Needs a C++ compiler.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.bundles import FAMILIES, FORMS, exported, pair_of

from mlx_gemma4_assist.bundle import native
from mlx_gemma4_assist.bundle.checking import Findings, check_native


def told(engine: str, found: Findings) -> str:
    parted = f", {len(found.ties)} parted at near ties" if found.ties else ""
    return f"{engine}: {found.tokens} tokens, logits to {found.difference:.1g}{parted}"


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        runner = native.build(Path(folder) / "native")
        for family in FAMILIES:
            for form, quantized in FORMS.items():
                with tempfile.TemporaryDirectory() as place:
                    out = Path(place) / "X.bundle"
                    found = exported(pair_of(Path(place), family, **quantized), out)
                    again = check_native(out, runner, found.texts)
                    print(f"{family} {form}: {told('Python', found)}; {told('C++', again)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
