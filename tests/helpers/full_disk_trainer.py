"""The real trainer with a limit of free space that no disk meets: `python full_disk_trainer.py RUN.json`."""

import sys

from loramux_adapters.finetuning.trainer import command

if __name__ == "__main__":
    command.MIN_FREE_BYTES = 1 << 62
    sys.exit(command.main())
