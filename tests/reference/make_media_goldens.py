"""Write what transformers' processors make of the conversations in tests/support/media.py.

    python make_media_goldens.py [--out DIR]

For `gemma4` and `gemma4_unified` a folder each: the processor as transformers saves it, `golden.json` (shapes and
dtypes) and `golden.npz` (token ids and types, features of sound, a few patches of every picture and frame). It needs
requirements-media.txt besides requirements.txt. Pictures of `gemma4` go through the reference's
Pillow image processor, which is the one used here; those of `gemma4_unified` and frames have only torchvision's, which
may round differently.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast
from transformers.image_utils import load_image
from transformers.models.gemma4.feature_extraction_gemma4 import Gemma4AudioFeatureExtractor
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil
from transformers.models.gemma4.processing_gemma4 import Gemma4Processor
from transformers.models.gemma4.video_processing_gemma4 import Gemma4VideoProcessor
from transformers.models.gemma4_unified.feature_extraction_gemma4_unified import Gemma4UnifiedAudioFeatureExtractor
from transformers.models.gemma4_unified.image_processing_gemma4_unified import Gemma4UnifiedImageProcessor
from transformers.models.gemma4_unified.processing_gemma4_unified import Gemma4UnifiedProcessor
from transformers.models.gemma4_unified.video_processing_gemma4_unified import Gemma4UnifiedVideoProcessor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from support import media as helpers

CLASSES = {
    "gemma4": (Gemma4Processor, Gemma4AudioFeatureExtractor, Gemma4ImageProcessorPil, Gemma4VideoProcessor),
    "gemma4_unified": (
        Gemma4UnifiedProcessor,
        Gemma4UnifiedAudioFeatureExtractor,
        Gemma4UnifiedImageProcessor,
        Gemma4UnifiedVideoProcessor,
    ),
}
PICTURES = {"pixel_values": "image_position_ids", "pixel_values_videos": "video_position_ids"}
EXACT = ("input_ids", "mm_token_type_ids", "input_features", "input_features_mask", "num_frames_per_video")


def processor(kind: str, folder: Path) -> Any:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(helpers.save_tokenizer(folder))
    whole, sound, picture, video = CLASSES[kind]
    return whole(sound(), picture(), tokenizer, video(), chat_template=helpers.TEMPLATE)


def opened(message: dict[str, Any]) -> dict[str, Any]:
    """With pictures in place of the paths of their files."""
    if isinstance(message["content"], str):
        return message
    parts = [
        part | {"image": load_image(part["image"])} if isinstance(part.get("image"), str) else part
        for part in message["content"]
    ]
    return message | {"content": parts}


def ask(reference: Any, messages: list[dict[str, Any]], options: dict[str, int]) -> dict[str, np.ndarray]:
    """The inputs of one conversation.

    Files of pictures are opened by `load_image`, which is what the Pillow processor does itself. Videos are handed over
    as arrays with their rate: decoding is not compared.
    """
    messages = [opened(message) for message in messages]
    videos = [
        part["video"]
        for message in messages
        if isinstance(message["content"], list)
        for part in message["content"]
        if part["type"] == "video"
    ]
    extra: dict[str, Any] = {"images_kwargs": options} if options else {}
    if videos:
        extra["video_metadata"] = [{"total_num_frames": len(v), "fps": helpers.VIDEO_RATE} for v in videos]
        # The reference refuses to take more frames than there are; the package takes all of them.
        extra["videos_kwargs"] = {"num_frames": min(32, *map(len, videos))}
    out = reference.apply_chat_template(
        messages,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="np",
        processor_kwargs=extra,
    )
    return {name: np.asarray(value) for name, value in out.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=helpers.GOLDENS)
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as scratch:
        sources = helpers.write_sources(Path(scratch))
        for kind in CLASSES:
            reference = processor(kind, Path(scratch) / kind)
            reference.save_pretrained(out / kind)
            facts, arrays = {}, {}
            for name, (messages, options) in helpers.conversations(sources).items():
                inputs = ask(reference, messages, options)
                facts[name] = {key: [*map(int, value.shape), str(value.dtype)] for key, value in inputs.items()}
                for pixels, positions in PICTURES.items():
                    if pixels in inputs:
                        arrays[f"{name}/{pixels}"] = helpers.sample(inputs[pixels], inputs[positions])
                        arrays[f"{name}/{positions}"] = inputs[positions].sum(1)
                for key in EXACT:
                    if key in inputs:
                        arrays[f"{name}/{key}"] = inputs[key]
            (out / kind / "golden.json").write_text(json.dumps(facts, indent=1))
            np.savez_compressed(out / kind / "golden.npz", **arrays)


if __name__ == "__main__":
    main()
