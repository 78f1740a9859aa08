"""Convert the demo's weights: `python -m ... SITE SHA256 CONVERTER DATA`.

SITE holds a package with weights of that hash, and CONVERTER runs in place of Python.
"""

import sys
from pathlib import Path

from loramux_server import base_model

if __name__ == "__main__":
    site, sha256, converter, data_dir = sys.argv[1:]
    sys.path.insert(0, site)
    base_model.DEMO_SHA256, sys.executable = sha256, converter
    base_model.resolve_base("demo", Path(data_dir), progress=print)
