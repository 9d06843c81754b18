"""Another pair than the embedded one, of packed weights, and its text, for Swift's tests: other.py FOLDER."""

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent.parent / "tests"))

from support.bundles import pair_of

from mlx_gemma4_assist import load, load_assistant, stream_generate
from mlx_gemma4_assist.bundle.writing import ExportOptions, export
from mlx_gemma4_assist.engine.pair import Checkpoint

TOKENS = 40


def main() -> None:
    folder = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        model = pair_of(Path(scratch), "e2b", q_bits=4, q_group_size=32)
        export(Checkpoint.open(model), folder / "other.bundle", ExportOptions(copy_weights=True, drafts=2))
        target, processor = load(model)
        assistant = load_assistant(model.with_name("e2b-assistant"))
        prompt = processor.encode("The wall was high. " * 9, chat=False)
        made = [each.token for each in stream_generate(target, processor, prompt, assistant, max_tokens=TOKENS)]
    (folder / "other.json").write_text(json.dumps({"prompt": prompt, "tokens": made}))


if __name__ == "__main__":
    main()
