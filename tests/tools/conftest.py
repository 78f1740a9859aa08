import sys
from pathlib import Path

# The tools are scripts of the repository, which are not installed.
sys.path.insert(0, str(Path(__file__).parents[2]))
