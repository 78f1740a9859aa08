"""Which files of a folder are parts of an adapter."""

from loramux_adapters.intake.sources.selection import adapter_files


def test_files_of_training_are_no_parts_of_an_adapter() -> None:
    """A10: what can be its chat template or its tokenizer is."""
    names = {"adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "tokenizer.json"}
    others = {"optimizer.pt", "README.md", "training_args.bin", "adapters.safetensors", "model-1.safetensors"}
    assert set(adapter_files(names | others)) == names


def test_without_the_usual_file_the_other_forms_of_weights_are_parts() -> None:
    names = ["adapter_config.json", "adapter_model.safetensors.index.json", "adapter_model-1.safetensors"]
    assert adapter_files([*names, "x.bin"]) == sorted(names)
    assert adapter_files(["adapters.safetensors"]) == ["adapters.safetensors"]
    assert adapter_files([]) == []
