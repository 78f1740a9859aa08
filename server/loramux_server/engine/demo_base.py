"""Turns a GGUF file into the folder that vLLM reads: `python -m loramux_server.engine.demo_base GGUF FOLDER`.

A program of its own, because torch and transformers take seconds to import and a gigabyte to work in, and the server
needs neither for this again.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def convert(source: Path, folder: Path) -> None:
    """Write the model and tokenizer of `source` to `folder` as float32 safetensors.

    float32, because dequantized 4-bit weights are not bfloat16 numbers, and vLLM rounds to its own dtype as it loads.
    """
    place = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(**place)
    model = AutoModelForCausalLM.from_pretrained(
        **place, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
