"""Write what transformers' `generate`, processor and pipelines give, called as the façade's tests call them.

    python make_huggingface_goldens.py [--out FILE]

Beside requirements.txt it needs pillow. The checkpoint is the one that `tests/support/huggingface.py` makes. The
reference's processor is given no video processor, which would need torchvision; no video is asked for. To be run again
after `make_goldens.py` has written another E2B.
"""

import argparse
import copy
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer, Gemma4AudioFeatureExtractor, GenerationConfig
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil
from transformers.models.gemma4.processing_gemma4 import Gemma4Processor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support import huggingface as helpers
from support.paths import GOLDENS

OUT = GOLDENS / "huggingface.json"


class Processor(Gemma4Processor):
    """With no video processor."""

    def check_argument_for_proper_class(self, name: str, argument: Any) -> Any:
        return type(argument)


def read_processor(folder: Path) -> Processor:
    settings = {name: value for name, value in helpers.IMAGE_PROCESSOR.items() if name != "image_processor_type"}
    return Processor(
        feature_extractor=Gemma4AudioFeatureExtractor(),
        image_processor=Gemma4ImageProcessorPil(**settings),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        video_processor=None,
        chat_template=helpers.TEMPLATE,
    )


def generated(model: Any, assistant: Any) -> dict[str, Any]:
    made = {}
    for name, (ids, mask, options) in helpers.GENERATE.items():
        options = dict(options)
        config = options.pop("generation_config", None)
        if config is not None:
            options["generation_config"] = GenerationConfig(**config)
        inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.tensor([mask])}
        made[name] = model.generate(**inputs, **options)[0].tolist()
        if model.generate(**inputs, **options, assistant_model=assistant)[0].tolist() != made[name]:
            print(f"{name}: transformers' assisted text differs", file=sys.stderr)
    return made


def processed(processor: Processor, picture: str) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, (messages, options) in copy.deepcopy(helpers.templates(picture)).items():
        out = processor.apply_chat_template(messages, **options)
        if not isinstance(out, str):
            out = {key: value.tolist() for key, value in out.items() if value.ndim == 2}
        made[name] = out
    for name, (text, pictures) in helpers.texts(picture).items():
        out = processor(text=text, images=pictures, return_tensors="np")
        made[name] = {key: value.tolist() for key, value in out.items() if value.ndim == 2}
    return made


def piped(folder: Path, processor: Processor, assistant: Any, picture: str) -> dict[str, Any]:
    made = {}
    for task in helpers.PIPELINES:
        beside = {"tokenizer": processor.tokenizer} if task == "text-generation" else {"processor": processor}
        pipe = transformers.pipeline(task, model=str(folder), assistant_model=assistant, dtype=torch.float32, **beside)
        made[task] = {name: pipe(**copy.deepcopy(call)) for name, call in helpers.calls(task, picture).items()}
        for results in made[task].values():
            for result in results:
                if "generated_token_ids" in result:
                    result["generated_token_ids"] = torch.as_tensor(result["generated_token_ids"]).tolist()
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        folder = helpers.make_checkpoint(Path(scratch) / "target")
        picture = str(helpers.save_picture(Path(scratch) / "picture.png"))
        model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
        assistant = transformers.AutoModelForCausalLM.from_pretrained(helpers.ASSISTANT, dtype=torch.float32)
        processor = read_processor(folder)
        golden = {
            "generate": generated(model, assistant),
            "processor": processed(processor, picture),
            "pipelines": piped(folder, processor, assistant, picture),
        }
        text = json.dumps(golden).replace(picture, helpers.PICTURE)
    out.write_text(text + "\n")


if __name__ == "__main__":
    main()
