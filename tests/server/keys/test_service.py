"""API keys: issue, look-up, rotation, revocation, and that all servers of a database agree."""

import asyncio
import base64
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from starlette.datastructures import Headers

from loramux_adapters.errors import StoreError
from loramux_server.auth import Authenticator, Principal, Scope
from loramux_server.errors import InvalidApiKey, InvalidRequest
from loramux_server.keys import service
from loramux_server.keys.models import SECRET_PREFIX, IssuedKey, KeyGrant, KeyStatus, new_id
from loramux_server.keys.repository import KeyRepository
from loramux_server.keys.service import ApiKeys
from loramux_server.keys.tables import api_key_revision, metadata
from tests.helpers.migrated_database import migrated_database

INFER = KeyGrant("app", frozenset({Scope.INFER}))


@dataclass
class Clock:
    now: float = 1e9

    def __call__(self) -> float:
        return self.now


@dataclass
class Servers:
    """Two servers that share a database and a clock."""

    database: sa.Engine
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.here, self.there = (ApiKeys(KeyRepository(self.database), self.clock) for _ in range(2))
        self.here.refresh()
        self.there.refresh()


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    database = migrated_database(tmp_path / "keys.sqlite")
    yield Servers(database)
    database.dispose()


def ask(keys: ApiKeys, secret: str) -> Principal:
    return Authenticator(["root"], keys.lookup).principal(Headers({"authorization": f"Bearer {secret}"}))


def refusal(keys: ApiKeys, secret: str) -> str:
    with pytest.raises(InvalidApiKey) as caught:
        ask(keys, secret)
    return caught.value.message


def test_a_key_has_256_random_bits_and_only_its_hash_and_its_start_are_stored(servers: Servers, tmp_path: Path) -> None:
    first, second = (servers.here.create(INFER, "root") for _ in range(2))
    random = first.secret.removeprefix(SECRET_PREFIX)
    assert len(base64.urlsafe_b64decode(random + "=")) == 32
    assert first.secret != second.secret
    assert first.key.id != second.key.id
    assert first.key.secrets[0].prefix == first.secret[: len(SECRET_PREFIX) + 4]
    assert first.secret not in repr(first)
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert first.key.secrets[0].digest.encode() in stored
    assert random.encode() not in stored
    assert random[4:20].encode() not in stored


def test_a_key_works_at_once_where_it_was_made_and_elsewhere_after_the_next_look(servers: Servers) -> None:
    grant = KeyGrant("app", frozenset({Scope.FINETUNE}), "search", "acme", ("tone*",))
    issued = servers.here.create(grant, "root")
    expected = Principal(issued.key.id, frozenset({Scope.FINETUNE}), "search", "acme", ("tone*",))
    assert ask(servers.here, issued.secret) == expected
    refusal(servers.there, issued.secret)
    servers.there.refresh()
    assert ask(servers.there, issued.secret) == expected
    assert not ask(servers.there, issued.secret).admin


def test_a_revoked_key_is_refused_at_once_and_elsewhere_after_the_next_look(servers: Servers) -> None:
    issued = servers.here.create(INFER, "root")
    servers.there.refresh()
    revoked = servers.here.revoke(issued.key.id, "root")
    assert (revoked.revoked_by, revoked.status(servers.clock.now)) == ("root", KeyStatus.REVOKED)
    refusal(servers.here, issued.secret)
    servers.there.refresh()
    refusal(servers.there, issued.secret)
    assert servers.there.revoke(issued.key.id, "somebody else") == revoked


def test_unknown_expired_and_revoked_keys_get_the_same_answer(servers: Servers) -> None:
    expiring = servers.here.create(KeyGrant("app", INFER.scopes, expires_at=servers.clock.now + 10), "root")
    revoked = servers.here.create(INFER, "root")
    servers.here.revoke(revoked.key.id, "root")
    assert ask(servers.here, expiring.secret).key_id == expiring.key.id
    servers.clock.now += 10
    answers = {refusal(servers.here, key) for key in (expiring.secret, revoked.secret, f"{SECRET_PREFIX}x", "x")}
    assert len(answers) == 1
    assert servers.here.get(expiring.key.id).status(servers.clock.now) is KeyStatus.EXPIRED


def test_a_rotated_key_keeps_its_id_and_both_secrets_work_until_the_overlap_ends(servers: Servers) -> None:
    old = servers.here.create(INFER, "root")
    new = servers.here.rotate(old.key.id, 60, "root")
    assert ask(servers.here, old.secret) == ask(servers.here, new.secret)
    servers.clock.now += 60
    refusal(servers.here, old.secret)
    assert ask(servers.here, new.secret).key_id == old.key.id
    newest = servers.here.rotate(old.key.id, 0, "root")
    refusal(servers.here, new.secret)
    assert ask(servers.here, newest.secret).key_id == old.key.id


def test_a_second_rotation_never_prolongs_a_secret(servers: Servers) -> None:
    old = servers.here.create(INFER, "root")
    servers.here.rotate(old.key.id, 10, "root")
    servers.here.rotate(old.key.id, 1000, "root")
    servers.clock.now += 10
    refusal(servers.here, old.secret)


@pytest.mark.parametrize("end", ["revoke", "expire"])
def test_a_key_that_has_ended_can_not_be_rotated_back_to_life(servers: Servers, end: str) -> None:
    issued = servers.here.create(KeyGrant("app", INFER.scopes, expires_at=servers.clock.now + 10), "root")
    if end == "revoke":
        servers.here.revoke(issued.key.id, "root")
    else:
        servers.clock.now += 10
    with pytest.raises(InvalidRequest, match="create a new one") as caught:
        servers.here.rotate(issued.key.id, 0, "root")
    assert (caught.value.status, caught.value.code) == (409, "key_not_active")
    assert len(servers.here.get(issued.key.id).secrets) == 1


def test_an_unknown_id_is_not_found(servers: Servers) -> None:
    for action in (
        servers.here.get,
        lambda key: servers.here.rotate(key, 0, ""),
        lambda key: servers.here.revoke(key, ""),
    ):
        with pytest.raises(InvalidRequest) as caught:
            action("key_'; DROP TABLE api_keys; --")
        assert (caught.value.status, caught.value.code) == (404, "key_not_found")


def test_a_project_belongs_to_one_organisation(servers: Servers) -> None:
    def create(project: str, organisation: str | None) -> str | None:
        grant = KeyGrant("app", INFER.scopes, project, organisation)
        return servers.here.create(grant, "root").key.grant.organisation

    assert create("search", "acme") == "acme"
    assert create("search", None) == "acme"
    assert create("default", None) == "default"
    assert create("other", None) == "default"
    for project, organisation in (("search", "other"), ("default", "acme"), ("other", "acme")):
        with pytest.raises(InvalidRequest) as caught:
            create(project, organisation)
        assert (caught.value.status, caught.value.code) == (409, "project_conflict")
    assert len(servers.here.all()) == 4
    assert len(servers.here.all("search")) == 2


async def test_the_last_use_is_written_later_and_never_goes_back(servers: Servers) -> None:
    issued = servers.here.create(INFER, "root")
    servers.there.refresh()
    ask(servers.here, issued.secret)
    assert servers.here.get(issued.key.id).last_used_at is None
    servers.clock.now += 5
    ask(servers.there, issued.secret)
    await servers.there.write_use()
    await servers.here.write_use()  # an earlier use, written later
    assert servers.here.get(issued.key.id).last_used_at == servers.clock.now


async def test_the_use_before_a_stop_is_written(servers: Servers) -> None:
    issued = servers.here.create(INFER, "root")
    async with servers.here.following():
        ask(servers.here, issued.secret)
    assert servers.there.get(issued.key.id).last_used_at == servers.clock.now


def test_a_request_never_waits_for_the_database(servers: Servers) -> None:
    issued = servers.here.create(INFER, "root")

    def fail(*_: object) -> None:
        raise AssertionError("a look-up asked the database")

    sa.event.listen(servers.database, "before_cursor_execute", fail)
    assert ask(servers.here, issued.secret).key_id == issued.key.id
    refusal(servers.here, "unknown")


async def test_a_server_follows_the_others_and_keeps_its_keys_while_the_database_is_away(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "REFRESH_SECONDS", 0)
    first = servers.here.create(INFER, "root")
    failures = iter([StoreError("The API keys can't be read.")] * 3)
    revision = KeyRepository.revision

    def fail_first(repository: KeyRepository) -> int:
        error = next(failures, None)
        if error is not None:
            raise error
        return revision(repository)

    servers.there.refresh()
    monkeypatch.setattr(KeyRepository, "revision", fail_first)
    second = servers.here.create(INFER, "root")  # nor is a new secret lost by it
    async with servers.there.following():
        assert ask(servers.there, first.secret).key_id == first.key.id
        while servers.there.lookup.find(second.key.secrets[0].digest) is None:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0)


class LifeOfKeys(RuleBasedStateMachine):
    """Whatever happens to keys, each secret works as long as a simple model says."""

    @initialize()
    def start(self) -> None:
        self.database = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
        metadata.create_all(self.database)
        with self.database.begin() as connection:
            connection.execute(api_key_revision.insert().values(number=0))
        self.clock = Clock()
        self.keys = ApiKeys(KeyRepository(self.database), self.clock)
        self.until: dict[str, dict[str, float]] = {}
        """By key and secret, when the secret ends."""

    def teardown(self) -> None:
        self.database.dispose()

    @rule(seconds=st.integers(1, 50) | st.none())
    def create(self, seconds: int | None) -> None:
        end = None if seconds is None else self.clock.now + seconds
        issued = self.keys.create(KeyGrant("app", INFER.scopes, expires_at=end), "root")
        self.until[issued.key.id] = {issued.secret: end or 1e10}

    @rule(data=st.data(), overlap=st.integers(0, 20))
    def rotate(self, data: st.DataObject, overlap: int) -> None:
        key = data.draw(st.sampled_from([*self.until, new_id()]))
        secrets = self.until.get(key, {})
        end = self.keys.get(key).grant.expires_at or 1e10 if secrets else 0
        try:
            issued: IssuedKey = self.keys.rotate(key, overlap, "root")
        except InvalidRequest:
            assert max(secrets.values(), default=0) <= self.clock.now
            return
        for secret in secrets:
            secrets[secret] = min(secrets[secret], self.clock.now + overlap)
        secrets[issued.secret] = end

    @rule(data=st.data())
    def revoke(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from([*self.until, new_id()]))
        try:
            self.keys.revoke(key, "root")
        except InvalidRequest:
            assert key not in self.until
        else:
            self.until[key] = dict.fromkeys(self.until[key], 0)

    @rule(seconds=st.integers(1, 30))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds

    @rule()
    def check(self) -> None:
        for key, secrets in self.until.items():
            for secret, end in secrets.items():
                if self.clock.now < end:
                    assert ask(self.keys, secret).key_id == key
                else:
                    refusal(self.keys, secret)


LifeOfKeys.TestCase.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
TestLifeOfKeys = LifeOfKeys.TestCase
