"""The tables of the API keys. They hold hashes, from which no key can be computed."""

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    }
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("project", sa.String(64), nullable=False, index=True),
    sa.Column("organisation", sa.String(64), nullable=False),
    sa.Column("scopes", sa.JSON, nullable=False),
    sa.Column("models", sa.JSON(none_as_null=True)),  # patterns; NULL: those of the project
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("created_by", sa.String(64), nullable=False),
    sa.Column("expires_at", sa.Double),
    sa.Column("revoked_at", sa.Double),
    sa.Column("revoked_by", sa.String(64)),
)

api_key_secrets = sa.Table(
    "api_key_secrets",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True),  # SHA-256 of the secret, in hex
    sa.Column("key_id", sa.String(32), sa.ForeignKey(api_keys.c.id, ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("prefix", sa.String(24), nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double),
    sa.Column("last_used_at", sa.Double),
)

api_key_revision = sa.Table(
    "api_key_revision",  # one row, which counts the changes of the other two tables, except `last_used_at`
    metadata,
    sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
)
