"""Sets up TRL's trainer: its arguments, its device, and what it does when memory runs out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from trl import DPOConfig, SFTConfig

from loramux_adapters.finetuning.events import Warned
from loramux_adapters.finetuning.recipes.memory_shortage import describe_options, format_bytes
from loramux_adapters.finetuning.trainer.answer_loss import AnswerLossTrainer
from loramux_adapters.finetuning.trainer.devices import available_memory, select_dtype
from loramux_adapters.finetuning.trainer.micro_batch_trainer import MicroBatchTrainer
from loramux_adapters.finetuning.trainer.micro_batches import MemoryFallback
from loramux_adapters.finetuning.trainer.preference_examples import to_pair_dataset
from loramux_adapters.finetuning.trainer.preference_loss import PreferenceTrainer
from loramux_adapters.finetuning.trainer.prepared_data import PreparedData
from loramux_adapters.finetuning.trainer.progress_reporter import ProgressReporter
from loramux_adapters.finetuning.trainer.tokenized_examples import to_dataset

_CLEARLY_LESS = 0.9


def create_trainer(
    model: Any, data: PreparedData, folder: Path, reporter: ProgressReporter, *, is_new_adapter: bool = True
) -> MicroBatchTrainer:
    """Return the trainer of a base with an adapter, a new one or not; it writes its states to `folder`."""
    is_dpo, dataset = data.recipe.is_dpo, to_pair_dataset if data.recipe.is_dpo else to_dataset
    arguments = (
        DPOConfig(**_arguments(data, folder), beta=data.recipe.dpo_beta)
        if is_dpo
        else SFTConfig(**_arguments(data, folder))
    )
    use_only_device(arguments, torch.device(data.device))
    options: dict[str, Any] = {
        "reporter": reporter,
        "lengths": [example.longest for example in data.examples],
        "memory": _memory_fallback(model, data, reporter),
        "model": model,
        "args": arguments,
        "train_dataset": dataset(data.examples),  # type: ignore[arg-type]
        "eval_dataset": dataset(data.validation_examples) if data.validation_examples else None,  # type: ignore[arg-type]
        "processing_class": data.tokenizer,
    }
    trainer = PreferenceTrainer(**options, is_new_adapter=is_new_adapter) if is_dpo else AnswerLossTrainer(**options)
    for parameter in model.parameters():
        if parameter.requires_grad:  # TRL makes it bfloat16 if the base is in 4 bits
            parameter.data = parameter.data.float()
    return trainer


def _arguments(data: PreparedData, folder: Path) -> dict[str, Any]:
    """Return the arguments of transformers' trainer."""
    recipe, on_gpu = data.recipe, data.choice.device.is_gpu
    dtype = select_dtype(data.device)
    return {
        "output_dir": str(folder),
        "num_train_epochs": recipe.epochs,
        "per_device_train_batch_size": recipe.batch_size,  # the trainer itself splits it into micro-batches
        "per_device_eval_batch_size": recipe.batch_size,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": "linear",
        "max_length": recipe.max_length,
        "seed": recipe.seed,
        "use_cpu": not on_gpu,
        "bf16": dtype is torch.bfloat16,
        "fp16": dtype is torch.float16,  # scales the loss, too
        "gradient_checkpointing": False,  # MemoryFallback does it
        "dataloader_pin_memory": on_gpu,
        "logging_steps": 1,
        "save_strategy": "no",  # the reporter decides
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def _memory_fallback(model: Any, data: PreparedData, reporter: ProgressReporter) -> MemoryFallback:
    def explain_shortage() -> str:
        available = available_memory(data.device)
        # The estimate was too low, so what is suggested has to need clearly less.
        device = replace(data.choice.device, free_bytes=min(available, int(data.choice.required_bytes * _CLEARLY_LESS)))
        in_4bit = data.choice.strategy.load_in_4bit
        fits = describe_options(data.demand, [device], "auto" if in_4bit else "never")
        return f", where about {format_bytes(available)} were available to it on {data.device}. {fits}"

    def warn(message: str) -> None:
        reporter.report(Warned(message=message))

    return MemoryFallback(model, data.choice.strategy, data.weights.can_checkpoint, warn, explain_shortage)


def use_only_device(arguments: SFTConfig, device: torch.device) -> None:
    """Make transformers use this device alone: by default it takes the first GPU, and all others too."""
    arguments._n_gpu = int(device.type != "cpu")
    arguments.__dict__["_setup_devices"] = device  # a cached property
    arguments.distributed_state.device = device
