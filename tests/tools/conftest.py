import sys
from pathlib import Path

# The tools are scripts beside the packages, not installed with them.
sys.path.insert(0, str(Path(__file__).parents[2]))
