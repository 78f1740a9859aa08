"""`python -m loramux_adapters.finetuning.trainer`."""

import sys

from loramux_adapters.finetuning.trainer.command import main

if __name__ == "__main__":
    sys.exit(main())
