"""settings and cli: every variable, wrong ones in one clear line, and the command line as people run it."""

import os
import re
import subprocess
import sys
from ipaddress import ip_network
from pathlib import Path

import pytest
import yaml
from pydantic import SecretStr, ValidationError

from tests.unit.build import run
from vaultsync import __version__
from vaultsync.cli import main
from vaultsync.commands import help_text
from vaultsync.commands.console import one_line
from vaultsync.config.auth import Auth, AuthConfig
from vaultsync.config.change_source import ChangeSource
from vaultsync.config.settings import Settings, describe_variables, variable
from vaultsync.core import annotations
from vaultsync.core.annotation_parser import SeedMode
from vaultsync.core.durations import parse_duration
from vaultsync.generation import rule_parser
from vaultsync.generation.rules import FORMATS
from vaultsync.kube.client import NoKubeConfig, connect

GOOD = {"VAULT_ADDR": "http://127.0.0.1:8200", "VAULT_TOKEN": "t0ken"}
NAMES = [variable(name) for name in Settings.model_fields]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("VAULT", "KUBE")):
            monkeypatch.delenv(name)


def settings(monkeypatch: pytest.MonkeyPatch, **more: str) -> Settings:
    for name, value in (GOOD | more).items():
        monkeypatch.setenv(name, value)
    return Settings()


def complaint(monkeypatch: pytest.MonkeyPatch, **more: str) -> str:
    with pytest.raises(ValidationError) as caught:
        settings(monkeypatch, **more)
    return one_line(caught.value)


def test_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(monkeypatch)
    assert found.vault_addr == GOOD["VAULT_ADDR"]
    assert found.vault_token is not None
    assert found.vault_token.get_secret_value() == "t0ken"
    assert (found.vault_cacert, found.vault_namespace, found.kubeconfig) == (None, "", None)
    assert (found.seed, found.store_servers, found.resync) == (SeedMode.ANNOTATED, (), 3600)
    assert (found.log_format, found.log_level, found.health_listen) == ("auto", "INFO", "")
    assert (found.lease, found.pod_name) == ("", "")
    assert "t0ken" not in repr(found)


def test_every_variable_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("")
    found = settings(
        monkeypatch,
        VAULT_ADDR="https://vault:8200/prefix",
        VAULT_NAMESPACE="team",
        KUBECONFIG="/some/where",
        VAULTSYNC_SEED="all",
        VAULTSYNC_STORE_SERVERS="http://a:1, https://b/ ,",
        VAULTSYNC_RESYNC="1h30m",
        VAULTSYNC_VAULT_TIMEOUT="500ms",
        VAULTSYNC_KUBE_TIMEOUT="7",
        VAULTSYNC_LEASE="team-a/vaultsync.two",
        VAULTSYNC_POD_NAME="vaultsync-two-5d8f9c7b6-x2x4z",
        VAULTSYNC_HEALTH_LISTEN="0.0.0.0:8080",
        VAULTSYNC_LOG_FORMAT="json",
        VAULTSYNC_LOG_LEVEL="DEBUG",
    )
    assert found.vault_namespace == "team"
    assert found.kubeconfig == "/some/where"
    assert found.seed is SeedMode.ALL
    assert found.store_servers == ("http://a:1", "https://b/")
    assert (found.resync, found.vault_timeout, found.kube_timeout) == (5400, 0.5, 7)
    assert (found.lease, found.pod_name) == ("team-a/vaultsync.two", "vaultsync-two-5d8f9c7b6-x2x4z")
    assert (found.health_listen, found.log_format, found.log_level) == ("0.0.0.0:8080", "json", "DEBUG")


ROLE = {"VAULTSYNC_VAULT_ROLE": "r"}
S, T = SecretStr("s"), SecretStr("t")


@pytest.mark.parametrize(
    ("auth", "given", "expected"),
    [
        ("token", {"VAULT_TOKEN": "t"}, AuthConfig(token=T)),
        ("token", {"VAULT_TOKEN_FILE": "/f"}, AuthConfig(token_file="/f")),
        ("kubernetes", ROLE, AuthConfig(Auth.KUBERNETES, role="r")),
        (
            "kubernetes",
            {**ROLE, "VAULTSYNC_VAULT_JWT_FILE": "/f"},
            AuthConfig(Auth.KUBERNETES, role="r", jwt_file="/f"),
        ),
        (
            "kubernetes",
            {**ROLE, "VAULTSYNC_VAULT_JWT_FILE": "/f", "VAULTSYNC_VAULT_AUTH_MOUNT": "/k8s/eu/"},
            AuthConfig(Auth.KUBERNETES, "k8s/eu", "r", jwt_file="/f"),
        ),
        ("jwt", {**ROLE, "VAULTSYNC_VAULT_JWT_FILE": "/f"}, AuthConfig(Auth.JWT, role="r", jwt_file="/f")),
        ("approle", {"VAULTSYNC_VAULT_ROLE_ID": "t\n"}, AuthConfig(Auth.APPROLE, role_id=T)),
        (
            "approle",
            {"VAULTSYNC_VAULT_ROLE_ID": "t", "VAULTSYNC_VAULT_SECRET_ID": "s"},
            AuthConfig(Auth.APPROLE, role_id=T, secret_id=S),
        ),
        (
            "approle",
            {"VAULTSYNC_VAULT_ROLE_ID_FILE": "/f", "VAULTSYNC_VAULT_SECRET_ID_FILE": "/f"},
            AuthConfig(Auth.APPROLE, role_id_file="/f", secret_id_file="/f"),
        ),
    ],
)
def test_the_ways_to_log_in(
    monkeypatch: pytest.MonkeyPatch, auth: str, given: dict[str, str], expected: AuthConfig
) -> None:
    found = settings(monkeypatch, **{"VAULTSYNC_VAULT_AUTH": auth, "VAULT_TOKEN": "", **given})
    assert found.auth == expected


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"VAULT_TOKEN": "hunter2", "VAULT_TOKEN_FILE": "/hunter2"}, "VAULT_TOKEN is set beside VAULT_TOKEN_FILE"),
        ({"VAULTSYNC_VAULT_AUTH": "kubernetes"}, "VAULTSYNC_VAULT_ROLE is not set"),
        ({"VAULTSYNC_VAULT_AUTH": "jwt", **ROLE}, "VAULTSYNC_VAULT_JWT_FILE is not set"),
        ({"VAULTSYNC_VAULT_AUTH": "approle"}, "VAULTSYNC_VAULT_ROLE_ID is not set, nor VAULTSYNC_VAULT_ROLE_ID_FILE"),
        (
            {"VAULTSYNC_VAULT_AUTH": "kubernetes", **ROLE, "VAULT_TOKEN": "hunter2"},
            "VAULT_TOKEN is set, but VAULTSYNC_VAULT_AUTH is kubernetes",
        ),
        (
            {"VAULTSYNC_VAULT_AUTH": "kubernetes", **ROLE, "VAULTSYNC_VAULT_SECRET_ID": "hunter2"},
            "VAULTSYNC_VAULT_SECRET_ID is set, but VAULTSYNC_VAULT_AUTH is kubernetes",
        ),
        (
            {"VAULT_TOKEN": "hunter2", "VAULTSYNC_VAULT_ROLE": "hunter2"},
            "VAULTSYNC_VAULT_ROLE is set, but VAULTSYNC_VAULT_AUTH is token",
        ),
        ({"VAULTSYNC_VAULT_AUTH": "hunter2"}, "VAULTSYNC_VAULT_AUTH "),
        (
            {"VAULTSYNC_VAULT_AUTH": "jwt", **ROLE, "VAULTSYNC_VAULT_JWT_FILE": "/f"}
            | {"VAULTSYNC_VAULT_AUTH_MOUNT": "auth/hunter2"},
            "VAULTSYNC_VAULT_AUTH_MOUNT must be",
        ),
        ({"VAULT_TOKEN": "t", "VAULT_CLIENT_KEY": "/hunter2"}, "VAULT_CLIENT_KEY needs VAULT_CLIENT_CERT"),
        ({"VAULT_TOKEN": "t", "VAULT_CLIENT_CERT": "/hunter2"}, "VAULT_CLIENT_KEY and VAULT_CLIENT_CERT must be"),
    ],
)
def test_what_does_not_go_together_is_told_on_one_line(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], said: str
) -> None:
    line = complaint(monkeypatch, **{"VAULT_TOKEN": "", **given})
    assert line.startswith(said)
    assert "\n" not in line
    assert "hunter2" not in line


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(monkeypatch, VAULT_CACERT="", VAULTSYNC_SEED="", VAULTSYNC_RESYNC="", VAULTSYNC_STORE_SERVERS="")
    assert (found.vault_cacert, found.seed, found.resync, found.store_servers) == (None, SeedMode.ANNOTATED, 3600, ())
    assert complaint(monkeypatch, VAULT_TOKEN="") == "VAULT_TOKEN is not set, nor VAULT_TOKEN_FILE"


def test_a_tokens_closing_newline_does_not_belong_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings(monkeypatch, VAULT_TOKEN="t0ken\n").vault_token == SecretStr("t0ken")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VAULT_ADDR", "hunter2"),
        ("VAULT_ADDR", "ftp://hunter2"),
        ("VAULT_ADDR", "http://"),
        ("VAULT_ADDR", "http://hunter2:99999"),
        ("VAULT_ADDR", "http://hunter2:port"),
        ("VAULT_ADDR", "http://[::hunter2"),
        ("VAULT_TOKEN", "hunter2\nX-Header: y"),
        ("VAULT_TOKEN", "hunter2\u2028"),
        ("VAULT_CACERT", "/hunter2/no.pem"),
        ("VAULTSYNC_SEED", "hunter2"),
        ("VAULTSYNC_SEED", "true"),
        ("VAULTSYNC_SEED_PATHS", ","),
        ("VAULTSYNC_SEED_PATHS", "hunter2"),
        ("VAULTSYNC_SEED_PATHS", "*/{hunter2}/**"),
        ("VAULTSYNC_SEED_PATHS", "*/{label:hunter2/}/**"),
        ("VAULTSYNC_SEED_PATHS", "*/hunter2**"),
        ("VAULTSYNC_SEED_PATHS", "*/hunter2/../x"),
        ("VAULTSYNC_SEED_PATHS", "hunter2{:*/x"),
        ("VAULTSYNC_SEED_BUDGET", "hunter2"),
        ("VAULTSYNC_SEED_BUDGET", "-1"),
        ("VAULTSYNC_SEED_BUDGET", "1.5"),
        ("VAULTSYNC_STORE_SERVERS", "http://a,hunter2"),
        ("VAULTSYNC_LEASE", "hunter2"),
        ("VAULTSYNC_LEASE", "hunter2/"),
        ("VAULTSYNC_LEASE", "/hunter2"),
        ("VAULTSYNC_LEASE", "a/hunter2/b"),
        ("VAULTSYNC_LEASE", "a/Hunter2"),
        ("VAULTSYNC_LEASE", "a/" + "hunter2" * 40),
        ("VAULTSYNC_POD_NAME", "Hunter_2"),
        ("VAULTSYNC_RESYNC", "hunter2"),
        ("VAULTSYNC_RESYNC", "-1h"),
        ("VAULTSYNC_RESYNC", "1s"),
        ("VAULTSYNC_RESYNC", "1h 30m"),
        ("VAULTSYNC_RESYNC", "nan"),
        ("VAULTSYNC_RESYNC", "9" * 400),
        ("VAULTSYNC_VAULT_TIMEOUT", "0"),
        ("VAULTSYNC_VAULT_TIMEOUT", "1h"),
        ("VAULTSYNC_KUBE_TIMEOUT", "0s"),
        ("VAULTSYNC_SOURCE", "hunter2"),
        ("VAULTSYNC_SOURCE", "AUDIT"),
        ("VAULTSYNC_AUDIT_LISTEN", "hunter2"),
        ("VAULTSYNC_AUDIT_LISTEN", "unix:hunter2"),
        ("VAULTSYNC_AUDIT_LISTEN", "unix:"),
        ("VAULTSYNC_AUDIT_LISTEN", "0.0.0.0:99999"),
        ("VAULTSYNC_AUDIT_ALLOW", "hunter2"),
        ("VAULTSYNC_AUDIT_ALLOW", "10.0.0.0/8,10.0.0.0/hunter2"),
        ("VAULTSYNC_AUDIT_ALLOW", "10.0.0.1/8"),
        ("VAULTSYNC_AUDIT_ALLOW", "10.0.0.0/33"),
        ("VAULTSYNC_AUDIT_ALLOW", ","),
        ("VAULTSYNC_POLL_INTERVAL", "hunter2"),
        ("VAULTSYNC_POLL_INTERVAL", "500ms"),
        ("VAULTSYNC_POLL_INTERVAL", "2d"),
        ("VAULTSYNC_POLL_RATE", "hunter2"),
        ("VAULTSYNC_POLL_RATE", "0"),
        ("VAULTSYNC_POLL_RATE", "10/s"),
        ("VAULTSYNC_HEALTH_LISTEN", "hunter2"),
        ("VAULTSYNC_HEALTH_LISTEN", "unix:/hunter2"),
        ("VAULTSYNC_HEALTH_LISTEN", "0.0.0.0:99999"),
        ("VAULTSYNC_LOG_FORMAT", "hunter2"),
        ("VAULTSYNC_LOG_LEVEL", "hunter2"),
        ("VAULTSYNC_LOG_LEVEL", "info "),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it_and_not_its_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    line = complaint(monkeypatch, **{name: value})
    assert line.startswith(f"{name} ")
    assert "\n" not in line
    assert "hunter2" not in line
    assert "Value error" not in line
    assert len(line) > len(name) + 10


def test_where_and_how_much_may_be_created(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(monkeypatch)
    assert (found.seed_paths, found.seed_budget) == (("*/{namespace}/**", "*/{namespace}"), 100)
    given = {"VAULTSYNC_SEED_PATHS": " secret/{label:example.com/team}/** , a:*/x,", "VAULTSYNC_SEED_BUDGET": "0"}
    found = settings(monkeypatch, **given)
    assert (found.seed_paths, found.seed_budget) == (("secret/{label:example.com/team}/**", "a:*/x"), 0)


def test_what_tells_of_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(monkeypatch)
    assert (found.source, found.audit_listen, found.audit_file, found.audit_allow) == (ChangeSource.AUTO, "", "", ())
    assert (found.audit_tls_cert, found.audit_tls_key) == ("", "")
    assert (found.poll_interval, found.poll_rate) == (60, 200)
    given = {
        "VAULTSYNC_SOURCE": "audit",
        "VAULTSYNC_AUDIT_LISTEN": "unix:/run/vaultsync/audit",
        "VAULTSYNC_AUDIT_ALLOW": "10.0.0.0/8, 192.0.2.1 ,fd00::/8",
        "VAULTSYNC_AUDIT_TLS_CERT": "/tls/tls.crt",
        "VAULTSYNC_AUDIT_TLS_KEY": "/tls/tls.key",
        "VAULTSYNC_AUDIT_FILE": "/vault/logs/audit.log",
        "VAULTSYNC_POLL_INTERVAL": "5m",
        "VAULTSYNC_POLL_RATE": "10",
    }
    found = settings(monkeypatch, **given)
    assert (found.source, found.audit_listen) == (ChangeSource.AUDIT, "unix:/run/vaultsync/audit")
    assert found.audit_allow == tuple(map(ip_network, ("10.0.0.0/8", "192.0.2.1", "fd00::/8")))
    assert (found.audit_tls_cert, found.audit_tls_key) == ("/tls/tls.crt", "/tls/tls.key")
    assert (found.audit_file, found.poll_interval, found.poll_rate) == ("/vault/logs/audit.log", 300, 10)


@pytest.mark.parametrize(
    "address", ["0.0.0.0:8220", ":8220", "[::1]:8220", "unix:/a", "udp::8220", "tcp:127.0.0.1:8220"]
)
def test_addresses_for_an_audit_device(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    assert settings(monkeypatch, VAULTSYNC_AUDIT_LISTEN=address).audit_listen == address


@pytest.mark.parametrize("address", ["8220", "udp:8220", "unix:audit", "tls:a:1 ", "udp:a:65536"])
def test_an_address_that_is_none_is_refused_with_the_forms(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    line = complaint(monkeypatch, VAULTSYNC_AUDIT_LISTEN=address)
    assert line.startswith("VAULTSYNC_AUDIT_LISTEN must be udp:HOST:PORT, tcp:HOST:PORT or unix:/PATH")


def test_datagrams_have_no_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"VAULTSYNC_AUDIT_LISTEN": "udp::8220", "VAULTSYNC_AUDIT_TLS_CERT": "/tls.crt"}
    line = complaint(monkeypatch, **given)
    assert line == "VAULTSYNC_AUDIT_TLS_CERT is for TCP, but VAULTSYNC_AUDIT_LISTEN is a UDP address"


def test_how_often_a_canary_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings(monkeypatch).canary_interval == 300
    assert settings(monkeypatch, VAULTSYNC_CANARY_INTERVAL="10m").canary_interval == 600
    assert complaint(monkeypatch, VAULTSYNC_CANARY_INTERVAL="0s").startswith("VAULTSYNC_CANARY_INTERVAL")


def test_an_audit_device_must_have_somewhere_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    line = complaint(monkeypatch, VAULTSYNC_SOURCE="audit")
    assert line == "VAULTSYNC_SOURCE=audit needs VAULTSYNC_AUDIT_LISTEN or VAULTSYNC_AUDIT_FILE"
    for name, value in {"VAULTSYNC_AUDIT_LISTEN": ":8220", "VAULTSYNC_AUDIT_FILE": "/a"}.items():
        with monkeypatch.context() as patched:
            assert settings(patched, VAULTSYNC_SOURCE="audit", **{name: value}).source is ChangeSource.AUDIT


def test_a_wrong_glob_is_named_by_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    line = complaint(monkeypatch, VAULTSYNC_SEED_PATHS="*/a,*/{nam}/**")
    assert line.startswith("VAULTSYNC_SEED_PATHS glob 2, segment 2 holds an unknown placeholder")
    assert "{namespace}" in line


def test_several_wrong_settings_are_all_named(monkeypatch: pytest.MonkeyPatch) -> None:
    line = complaint(monkeypatch, VAULTSYNC_SEED="x", VAULTSYNC_RESYNC="y")
    assert "VAULTSYNC_SEED" in line
    assert "VAULTSYNC_RESYNC" in line


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("1h", 3600),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("2d", 172800),
        ("500ms", 0.5),
        ("1m500ms", 60.5),
        ("15", 15),
        (" 15 ", 15),
        ("0.5", 0.5),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "h", "-1s", "1x", "1h!", "1e3", "1 h", "s1", "inf"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


def test_the_explanation_names_every_setting_and_its_default() -> None:
    text = describe_variables()
    assert all(name in text for name in NAMES)
    assert "[default: annotated]" in text
    assert "[default: 1h]" in text
    assert "[default: 10s]" in text
    assert "[default: */{namespace}/**,*/{namespace}]" in text
    assert "[default: 100]" in text
    assert re.search(r"VAULTSYNC_SOURCE\n .*\[default: auto\]", text)
    assert re.search(r"VAULTSYNC_POLL_INTERVAL\n .*\[default: 60s\]", text)
    assert re.search(r"VAULTSYNC_POLL_RATE\n .*\[default: 200\]", text)
    assert not re.search(r"\[default: \w+\(", text), "the name of a class says nothing to a user"
    assert text.count("(required)") == 1


# -- the command line


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("VAULT", "KUBE"))}
    return subprocess.run(
        [sys.executable, "-m", "vaultsync", *arguments],
        env=clean | {"HOME": "/nonexistent"} | environment,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_version() -> None:
    ran = command("version")
    assert (ran.returncode, ran.stdout.splitlines()[0], ran.stderr) == (0, f"vaultsync {__version__}", "")


def test_help_lists_every_setting() -> None:
    ran = command("run", "--help")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert all(name in ran.stdout for name in NAMES)
    assert all(str(field.description) in ran.stdout for field in Settings.model_fields.values())


def test_help_lists_every_annotation_and_every_rule() -> None:
    shown = command("run", "--help").stdout
    assert {*annotations.READ_ANNOTATIONS, annotations.FORCE_SYNC} == help_text.ANNOTATIONS.keys()
    assert all(f"  {name}\n" in shown for name in help_text.ANNOTATIONS)
    examples = map(yaml.safe_load, help_text.RULES)
    kinds = {key if key != "format" else rule["format"] for rule in examples for key in rule}
    assert kinds >= {*FORMATS, "value", "template"}
    assert all(f"  {rule}\n" in shown for rule in help_text.RULES)
    for rule in help_text.RULES:
        assert rule_parser.parse_rules(f"p: {rule}").rule_for("p") is not None


def test_the_general_help_lists_them_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in NAMES)


@pytest.mark.parametrize("arguments", [[], ["fly"], ["run", "--fast"]])
def test_a_wrong_command_line_is_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: vaultsync" in capsys.readouterr().err


def test_settings_that_are_not_there_are_one_line_and_exit_2() -> None:
    ran = command("run")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == "vaultsync: VAULT_ADDR is not set; VAULT_TOKEN is not set, nor VAULT_TOKEN_FILE\n"


def test_a_wrong_setting_is_one_line_and_exit_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (GOOD | {"VAULTSYNC_SEED": "hunter2"}).items():
        monkeypatch.setenv(name, value)
    assert main(["run"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("vaultsync: VAULTSYNC_SEED ")
    assert printed.err.count("\n") == 1
    assert "hunter2" not in printed.err


def test_a_source_that_cannot_be_is_one_line_and_exit_2() -> None:
    ran = command("run", **GOOD, VAULTSYNC_SOURCE="audit")
    assert (ran.returncode, ran.stdout) == (2, "")
    words = "vaultsync: VAULTSYNC_SOURCE=audit needs VAULTSYNC_AUDIT_LISTEN or VAULTSYNC_AUDIT_FILE\n"
    assert ran.stderr == words


def test_a_kubeconfig_that_is_not_there_is_one_line_and_exit_2() -> None:
    ran = command("run", **GOOD, KUBECONFIG="/does/not/exist")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "KUBECONFIG" in ran.stderr
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "content",
    [
        "",
        "a: [hunter2\nb: }",
        "[]",
        "text",
        "apiVersion: v1\nkind: Config\ncurrent-context: x\n",
        "\x00",
        "a: 1\n\tb: 2",
    ],
)
def test_a_kubeconfig_that_is_none_is_an_error_of_ours(content: str, tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(content)
    with pytest.raises(NoKubeConfig) as caught:
        run(connect(str(file), 5.0))
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_kubeconfig_at_all_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(NoKubeConfig):
        run(connect(None, 5.0))


def test_a_list_of_kubeconfigs_is_merged_as_kubectl_does(tmp_path: Path) -> None:
    cluster = "clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]\nusers: [{name: u, user: {token: t}}]\n"
    context = "contexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\n"
    (tmp_path / "one").write_text(f"apiVersion: v1\nkind: Config\n{cluster}")
    (tmp_path / "two").write_text(f"apiVersion: v1\nkind: Config\n{context}")

    async def test() -> None:
        client = await connect(f"{tmp_path / 'one'}:{tmp_path / 'two'}", 5.0)
        assert client.server == "http://127.0.0.1:1"
        await client.close()

    run(test())
