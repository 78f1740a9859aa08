"""The table of the messages that are still to be delivered. It holds neither URLs nor secrets."""

import sqlalchemy as sa

metadata = sa.MetaData(naming_convention={"ix": "ix_%(column_0_label)s", "pk": "pk_%(table_name)s"})

outbox = sa.Table(
    "webhook_outbox",
    metadata,
    sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("event", sa.String(40), nullable=False),  # its id, the same for all endpoints and attempts
    sa.Column("endpoint", sa.String(64), nullable=False),  # see WebhookSettings.id
    sa.Column("type", sa.String(64), nullable=False),
    sa.Column("job", sa.String(40), nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("next_at", sa.Double, nullable=False, index=True),
)
