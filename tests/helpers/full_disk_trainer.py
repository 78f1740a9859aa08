"""The real trainer with a limit of free space that no disk meets: `python full_disk_trainer.py RUN.json`."""

import sys

if __name__ == "__main__":
    # Here, because a test imports this module for its path: with these, every run of pytest would load the trainer.
    from loramux_adapters.finetuning.trainer import command

    command.MIN_FREE_BYTES = 1 << 62
    sys.exit(command.main())
