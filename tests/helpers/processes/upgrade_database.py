"""Migrate a database when standard input ends: `python -m ... URL`."""

import sys

import alembic.command  # noqa: F401 - so that what follows takes no time

from loramux_server.database import create_engine, upgrade

if __name__ == "__main__":
    print("waiting", flush=True)  # noqa: T201
    sys.stdin.read()
    upgrade(create_engine(sys.argv[1]))
