"""Migrate a database that needs no migration: `python -m ... URL`. Prints the CPU seconds and if Alembic was loaded."""

import sys
import time

from loramux_server.database import create_engine, upgrade

if __name__ == "__main__":
    engine = create_engine(sys.argv[1])
    started = time.process_time()
    upgrade(engine)
    print(time.process_time() - started, "alembic" in sys.modules)  # noqa: T201
