"""Rows of training files without contents, for jobs that nobody trains."""

import sqlalchemy as sa

from loramux_adapters.finetuning.jobs.tables import files


def add_files(database: sa.Engine, *names: str) -> None:
    """Store the files that are not there yet."""
    with database.begin() as connection:
        known = set(connection.execute(sa.select(files.c.id)).scalars())
        for name in set(names) - known:
            row = {"id": name, "purpose": "fine-tune", "filename": name, "bytes": 1, "created_at": 1.0, "sha256": ""}
            connection.execute(sa.insert(files).values(row))
