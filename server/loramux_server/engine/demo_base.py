"""Converts a GGUF file to a folder that vLLM can load: `python -m loramux_server.engine.demo_base GGUF FOLDER`.

Runs in its own process, because torch and transformers need seconds to import and a gigabyte of memory, and the server
needs the conversion only once.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def convert(source: Path, folder: Path) -> None:
    """Write the model and tokenizer of `source` to `folder` as float32 safetensors.

    bfloat16 can't represent all dequantized 4-bit weights; vLLM converts to its own dtype when it loads.
    """
    location = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(**location)
    model = AutoModelForCausalLM.from_pretrained(
        **location, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
