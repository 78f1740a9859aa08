"""The tables of limits: those that were set at run time, and the accounts that several servers share."""

import sqlalchemy as sa

metadata = sa.MetaData(naming_convention={"ix": "ix_%(column_0_label)s", "pk": "pk_%(table_name)s"})

_SUBJECT = (("kind", 8), ("name", 128))

limits = sa.Table(
    "limits",
    metadata,
    *(sa.Column(name, sa.String(length), primary_key=True) for name, length in _SUBJECT),
    sa.Column("limits", sa.JSON, nullable=False),
    sa.Column("changed_at", sa.Double, nullable=False),
    sa.Column("actor", sa.String(64), nullable=False),
)
"""The limits that were set at run time, by name; `actor` is the id of the API key that set them."""

limit_accounts = sa.Table(
    "limit_accounts",
    metadata,
    *(sa.Column(name, sa.String(length), primary_key=True) for name, length in _SUBJECT),
    sa.Column("account", sa.JSON, nullable=False),
)
"""What each subject has used and reserved, if several servers share the database."""

limit_servers = sa.Table(
    "limit_servers",
    metadata,
    sa.Column("server", sa.String(16), primary_key=True),
    sa.Column("seen_at", sa.Double, nullable=False),
)
"""The servers that share the accounts. What a server reserved counts as long as it is seen."""
