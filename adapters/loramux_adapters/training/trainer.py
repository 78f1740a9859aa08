"""The trainer: a process of its own that turns a base, a training file and a recipe into an adapter's two files.

Run as `python -m loramux_adapters.training.trainer --base FOLDER --data FILE --output FOLDER`, with `--recipe FILE` for
other than the defaults. Events go to standard output (see events.py), everything that the libraries say to standard
error. Exit codes: 0 trained, 2 the base, the data or the recipe can't be used, 130 interrupted.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

from loramux_adapters.training.dataset import Row, read_dataset, rows
from loramux_adapters.training.errors import TrainingError, UnusableBase
from loramux_adapters.training.events import Event, Failed, Finished, Started, Step
from loramux_adapters.training.recipe import Recipe, load_recipe

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


class Reporter(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Writes events, one JSON object a line."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.began = time.monotonic()

    def tell(self, event: Event) -> None:
        """Write one event at once: the parent draws its progress from it."""
        print(event.model_dump_json(), file=self.stream, flush=True)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Count the time from the first step, not from the loading."""
        self.began = time.monotonic()

    def on_log(self, _args: Any, state: Any, _control: Any, logs: dict[str, float], **_: Any) -> None:
        """Tell of a step; the summary at the end has no loss of its own."""
        if "loss" not in logs:
            return
        left = (time.monotonic() - self.began) / state.global_step * (state.max_steps - state.global_step)
        self.tell(
            Step(
                step=state.global_step,
                steps=state.max_steps,
                loss=logs["loss"],
                tokens=int(logs["num_tokens"]),
                seconds_left=left,
            )
        )


def train(base: Path, base_name: str, data: Path, recipe: Recipe, output: Path, reporter: Reporter) -> None:
    """Train and write `adapter_model.safetensors` (bfloat16) and `adapter_config.json` to `output`.

    Files of these names that are already there are replaced together, others are left alone; nothing is written before
    the training is done. Raises TrainingError or OSError when the base, the data or the recipe can't be used.
    """
    examples = rows(read_dataset(data))
    tokenizer, model = _load(base)
    _refuse_too_long(examples, tokenizer, recipe.max_length)
    torch.manual_seed(recipe.seed)  # the adapter's first weights are drawn here
    model = _with_adapter(model, recipe)
    with _published(output) as folder:
        trainer = SFTTrainer(
            model=model,
            args=_arguments(recipe, folder),
            train_dataset=Dataset.from_list(examples),
            processing_class=tokenizer,
            callbacks=[reporter],
        )
        steps = -(-len(examples) // recipe.batch_size) * recipe.epochs
        trained, total = model.get_nb_trainable_parameters()
        reporter.tell(
            Started(examples=len(examples), steps=steps, trained_parameters=trained, base_parameters=total - trained)
        )
        trainer.train()
        _save(model, base_name, folder)
        size = (folder / WEIGHTS).stat().st_size
    reporter.tell(Finished(size=size, seconds=time.monotonic() - reporter.began))


def _load(base: Path) -> tuple[Any, Any]:
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    try:
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(base, local_files_only=True, dtype=dtype)
    except (OSError, ValueError) as error:
        raise UnusableBase(f"{base.name} can't be loaded as a base model: {error}") from error
    if tokenizer.chat_template is None:
        raise UnusableBase(f"{base.name} has no chat template: train on the chat ('instruct') variant of the base")
    return tokenizer, model


def _refuse_too_long(examples: list[Row], tokenizer: Any, max_length: int) -> None:
    """TRL would cut such an example silently, and its end is what is to be learned."""
    for number, row in enumerate(examples, start=1):
        chat = row["prompt"] + row["completion"]
        length = len(tokenizer.apply_chat_template(chat, return_dict=False))
        if length > max_length:
            raise TrainingError(
                f"answer {number} of the data has {length} tokens, more than the recipe's max_length of {max_length}"
            )


def _with_adapter(model: Any, recipe: Recipe) -> PeftModel:
    layers = model.config.num_hidden_layers
    if recipe.last_layers is not None and recipe.last_layers > layers:
        raise UnusableBase(f"the recipe asks for the last {recipe.last_layers} layers, but the base has {layers}")
    chosen = None if recipe.last_layers is None else list(range(layers - recipe.last_layers, layers))
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        target_modules=list(recipe.target_modules),
        layers_to_transform=chosen,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise UnusableBase(f"the base can't carry the recipe's adapter: {error}") from error


def _arguments(recipe: Recipe, folder: Path) -> SFTConfig:
    return SFTConfig(
        output_dir=str(folder),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="linear",
        max_length=recipe.max_length,
        seed=recipe.seed,
        bf16=torch.cuda.is_available(),
        gradient_checkpointing=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def _save(model: PeftModel, base_name: str, folder: Path) -> None:
    """Write the two files so that the same training gives the same bytes, and no path of this machine is in them."""
    weights = {name: tensor.to(torch.bfloat16).cpu() for name, tensor in get_peft_model_state_dict(model).items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)  # safetensors makes it private, but the server may be another user
    config = model.peft_config["default"]
    config.base_model_name_or_path = base_name
    config.target_modules = sorted(config.target_modules)
    config.inference_mode = True
    config.save_pretrained(str(folder))


@contextmanager
def _published(output: Path) -> Iterator[Path]:
    """A folder beside `output` to write in; at the end the adapter's files move over, on any error nothing does.

    The old config goes first and the new one comes last, so `output` never shows weights with a config not theirs.
    """
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
        yield Path(folder)
        _ignore_interrupts()
        (output / CONFIG).unlink(missing_ok=True)
        for name in (WEIGHTS, CONFIG):
            (Path(folder) / name).replace(output / name)


def _ignore_interrupts() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _interrupt(*_: object) -> None:
    _ignore_interrupts()  # a second Ctrl-C must not stop the cleaning up
    raise KeyboardInterrupt


def _own_stdout() -> TextIO:
    """The real standard output, for events alone: whatever a library prints goes to standard error from here on."""
    stream = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return stream


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loramux_adapters.training.trainer", description=__doc__)
    parser.add_argument("--base", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--base-name", help="name to record in the adapter (the folder's name)")
    parser.add_argument("--data", type=Path, required=True, help="chat fine-tuning file (JSONL)")
    parser.add_argument("--recipe", type=Path, help="recipe (YAML); all the defaults")
    parser.add_argument("--output", type=Path, required=True, help="folder to write the adapter to")
    return parser


def main() -> int:
    """Run the trainer; returns its exit code."""
    arguments = _parser().parse_args()
    reporter = Reporter(_own_stdout())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        base_name = arguments.base_name or arguments.base.resolve().name
        recipe = load_recipe(arguments.recipe) if arguments.recipe else Recipe()
        train(arguments.base, base_name, arguments.data, recipe, arguments.output, reporter)
    except (TrainingError, OSError) as error:
        reporter.tell(Failed(message=str(error)))
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
