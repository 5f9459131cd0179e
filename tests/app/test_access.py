"""Keys as they are read, and put into force."""

from dataclasses import replace
from pathlib import Path

import pytest

from supervisord.api.keys import KeyedDoor
from supervisord.app.access import Access, read_keys
from supervisord.config.load import defaults
from supervisord.config.model import Configuration, KeySpec
from supervisord.config.places import Surroundings
from supervisord.core.errors import ConfigurationError
from supervisord.core.keys import Key, digest_of
from supervisord.engine.permits import Permits

SECRET = "0123456789abcdef"


def configured(*keys: KeySpec, host: str = "127.0.0.1") -> Configuration:
    around = Surroundings({}, "/home/ada", root=False, folder="/srv/conf")
    return replace(defaults(around), keys=keys, listen_host=host)


def spec(name: str, secret: str = "", file: str = "", models: frozenset[str] = frozenset()) -> KeySpec:
    return KeySpec(name, secret, file, None, None, models)


def test_secrets_become_digests(tmp_path: Path) -> None:
    (tmp_path / "a.key").write_text("  another-secret-0123\n\n")
    keys = read_keys(configured(spec("ed", SECRET), spec("ci", file=str(tmp_path / "a.key"))))
    assert keys == (Key("ed", digest_of(SECRET)), Key("ci", digest_of("another-secret-0123")))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file or directory; create it"),
        (b"", "does not hold one word of 16"),
        (b"short", "does not hold one word of 16"),
        (b"two words of a secret", "does not hold one word of 16"),
        (b"\xff" * 20, "does not hold one word of 16"),
        (b"x" * 5000, "does not hold one word of 16"),
        (b"0123456789abcdef", "keys.ci has the same secret as keys.ed"),
    ],
)
def test_files_that_hold_none(tmp_path: Path, content: bytes | None, words: str) -> None:
    file = tmp_path / "a.key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=words) as raised:
        read_keys(configured(spec("ed", SECRET), spec("ci", file=str(file))))
    assert SECRET not in raised.value.message


def test_what_is_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", SECRET)
    permits = Permits()
    access = Access((), configured(), permits)
    assert not isinstance(access.application(()), KeyedDoor)
    assert access.secrets == frozenset()
    ed = replace(spec("ed", SECRET, models=frozenset({"a"})), concurrency=3)
    keys = read_keys(configured(ed, spec("ci", "another-secret-0123")))
    assert isinstance(access.application(keys), KeyedDoor)
    assert access.secrets == {SECRET}
    assert permits.models == {"ed": {"a"}}
    assert permits.concurrency == {"ed": 3}
    assert not access.differs(keys)
    access.enforce(())
    assert access.differs(keys)
    assert (permits.models, permits.concurrency) == ({}, {})


def test_the_last_key_cannot_go_while_others_can_reach_the_address() -> None:
    Access((), configured(), Permits()).check(())
    away = Access((), configured(host="192.168.1.5"), Permits())
    away.check((Key("ed", b""),))
    with pytest.raises(ConfigurationError, match=r"192\.168\.1\.5 is not loopback until the daemon is restarted"):
        away.check(())
