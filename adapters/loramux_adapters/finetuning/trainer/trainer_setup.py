"""Sets up TRL's trainer: its arguments, its device, and what it does when memory runs out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from trl import SFTConfig

from loramux_adapters.finetuning.events import Warned
from loramux_adapters.finetuning.recipes.memory_shortage import describe_options, format_bytes
from loramux_adapters.finetuning.trainer.answer_loss import AnswerLossTrainer
from loramux_adapters.finetuning.trainer.devices import available_memory, select_dtype
from loramux_adapters.finetuning.trainer.micro_batches import MemoryFallback
from loramux_adapters.finetuning.trainer.prepared_data import PreparedData
from loramux_adapters.finetuning.trainer.progress_reporter import ProgressReporter
from loramux_adapters.finetuning.trainer.tokenized_examples import to_dataset

_CLEARLY_LESS = 0.9


def create_trainer(model: Any, data: PreparedData, folder: Path, reporter: ProgressReporter) -> AnswerLossTrainer:
    """Return the trainer of a base with an adapter; it writes its states to `folder`."""
    recipe, on_gpu = data.recipe, data.choice.device.is_gpu
    dtype = select_dtype(data.device)
    arguments = SFTConfig(
        output_dir=str(folder),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,  # the trainer itself splits it into micro-batches
        per_device_eval_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="linear",
        max_length=recipe.max_length,
        seed=recipe.seed,
        use_cpu=not on_gpu,
        bf16=dtype is torch.bfloat16,
        fp16=dtype is torch.float16,  # scales the loss, too
        gradient_checkpointing=False,  # MemoryFallback does it
        dataloader_pin_memory=on_gpu,
        logging_steps=1,
        save_strategy="no",  # the reporter decides
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    use_only_device(arguments, torch.device(data.device))
    trainer = AnswerLossTrainer(
        reporter=reporter,
        lengths=[len(example.tokens) for example in data.examples],
        memory=_memory_fallback(model, data, reporter),
        model=model,
        args=arguments,
        train_dataset=to_dataset(data.examples),
        eval_dataset=to_dataset(data.validation_examples) if data.validation_examples else None,
        processing_class=data.tokenizer,
    )
    for parameter in model.parameters():
        if parameter.requires_grad:  # TRL makes it bfloat16 if the base is in 4 bits
            parameter.data = parameter.data.float()
    return trainer


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
