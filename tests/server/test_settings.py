"""Settings from the environment and the command line, and the sentences when they are not acceptable."""

import argparse
import socket
from pathlib import Path

import pytest
from pydantic import ValidationError

from server import cli
from server.serving import open_port, open_warning
from server.settings import ServerSettings
from server.stock_host import StartError, check_folders


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOST", "PORT", "STUDIES", "WORKSPACE", "LABELS", "CORS_ORIGINS", "ALLOWED_HOSTS", "CONF"):
        monkeypatch.delenv(f"UGMCL_{name}", raising=False)


def test_defaults_listen_on_this_machine_only_with_cors_closed() -> None:
    settings = ServerSettings()
    assert (settings.host, settings.port, settings.cors_origins) == ("127.0.0.1", 8000, ())
    assert settings.is_loopback
    assert settings.host_names == {"127.0.0.1", "localhost", "::1"}


def test_the_environment_is_read_and_lists_are_comma_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UGMCL_PORT", "8123")
    monkeypatch.setenv("UGMCL_LABELS", "liver, spleen")
    settings = ServerSettings()
    assert (settings.port, settings.labels) == (8123, ("liver", "spleen"))
    assert settings.app_conf() == {"labels": "liver,spleen"}


def test_the_command_line_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UGMCL_PORT", "8123")
    options = cli.parser().parse_args(["serve", "--port", "8200", "--conf", "min_labels", "2"])
    settings = cli.settings_from(options)
    assert (settings.port, settings.conf) == (8200, {"min_labels": "2"})


@pytest.mark.parametrize(
    "origin", ["*", "viewer.example", "http://viewer.example/page", "ftp://viewer.example"]
)
def test_only_whole_origins_are_accepted(origin: str) -> None:
    with pytest.raises(ValidationError, match="is not an origin"):
        ServerSettings(cors_origins=origin)


def test_the_workspace_lies_with_the_studies_unless_told_otherwise(tmp_path: Path) -> None:
    assert ServerSettings(studies=tmp_path).workspace_folder() == tmp_path / ".ugmcl"
    assert ServerSettings(studies=tmp_path, workspace=tmp_path / "w").workspace_folder() == tmp_path / "w"


def test_an_address_others_can_reach_is_warned_about_loudly() -> None:
    settings = ServerSettings(host="0.0.0.0", allowed_hosts="scanner.example")
    warning = open_warning(settings)
    assert not settings.is_loopback
    assert "NO AUTHENTICATION" in warning
    assert "scanner.example" in warning
    assert len(warning.splitlines()) > 5


def test_a_port_in_use_is_a_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(StartError, match="another program may use it"):
            open_port(ServerSettings(port=taken.getsockname()[1]))


def test_port_zero_takes_a_free_port() -> None:
    with open_port(ServerSettings(port=0)) as listener:
        assert listener.getsockname()[1] > 0


def test_a_workspace_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match="--workspace DIR"):
        check_folders(ServerSettings(studies=tmp_path, workspace=tmp_path / "file" / "w"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--studies", "/does/not/exist"], "/does/not/exist does not exist"),
        (["serve"], "--studies DIR"),
        (["serve", "--port", "many"], "port was given as 'many'"),
        (["train", "--studies", "/does/not/exist"], "/does/not/exist does not exist"),
        (["export", "--studies", "/does/not/exist", "--out", "new"], "/does/not/exist does not exist"),
        (["export", "--studies", ".", "--out", "/etc"], "/etc is there already"),
        (["predict", "--model", "nothing.pt", "--input", ".", "--output", "out"], "no model file nothing.pt"),
        (["predict", "--model", "m.pt", "--input", ".", "--output", "."], "would replace those"),
        (
            ["predict", "--model", "v1", "--studies", ".", "--input", ".", "--output", "out"],
            "versions kept there: none",
        ),
    ],
)
def test_what_cannot_be_done_is_a_sentence_and_exit_code_2(
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


@pytest.mark.parametrize("command", ["serve", "train", "predict", "export", "sample-data"])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) > 8


def test_help_lists_the_commands_with_first_steps() -> None:
    text = cli.parser().format_help()
    assert all(name in text for name in ("serve", "demo", "train", "export", "sample-data", "first steps"))


def test_settings_of_commands_without_server_options_are_complete() -> None:
    options = argparse.Namespace(studies="scans", workspace=None)
    assert cli.settings_from(options).studies == Path("scans")


def test_pacs_keeps_its_address_and_gets_a_workspace_named_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    settings = ServerSettings(studies="http://127.0.0.1:8042/dicom-web")
    assert settings.studies == "http://127.0.0.1:8042/dicom-web"
    assert settings.workspace_folder() == tmp_path / "ugmcl-assist" / "127.0.0.1_8042_dicom-web"
    assert check_folders(settings) == (settings.studies, settings.workspace_folder())
    named = ServerSettings(studies="https://pacs.example/rs", workspace=tmp_path / "own")
    assert named.workspace_folder() == tmp_path / "own"
