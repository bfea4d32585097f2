"""The Helm chart has every setting, deploy/monitoring, and vaultsync's versions. Real servers get what it renders."""

import json
from pathlib import Path

import yaml

from tests.chart import CHART, COPIED, MONITORING, OWN, SCHEMA, SECRETS, main, with_settings
from vaultsync import __version__
from vaultsync.config.settings import Settings, variable


def test_the_schema_has_every_setting() -> None:
    text = SCHEMA.read_text()
    assert with_settings(text) == text, "run `make chart`"
    settings = json.loads(text)["properties"]["settings"]["properties"]
    assert settings.keys() | OWN.keys() | SECRETS == {variable(name) for name in Settings.model_fields}


def test_no_setting_can_be_given_twice() -> None:
    settings = json.loads(SCHEMA.read_text())["properties"]["settings"]["properties"]
    assert settings.keys() & OWN.keys() == set()


def test_no_secret_is_a_value() -> None:
    assert "VAULT_TOKEN" in SECRETS
    assert not any(name in SCHEMA.read_text() for name in (f'"{secret}"' for secret in SECRETS))


def test_a_setting_of_tomorrow_is_written_into_it(tmp_path: Path) -> None:
    old = json.loads(SCHEMA.read_text())
    del old["properties"]["settings"]["properties"]["VAULTSYNC_SEED"]
    copy = tmp_path / SCHEMA.name
    copy.write_text(json.dumps(old))
    main(tmp_path)
    assert copy.read_text() == SCHEMA.read_text()


def test_alerts_and_dashboard_are_those_of_deploy_monitoring() -> None:
    assert {file.name for file in (CHART / "files").iterdir()} == set(COPIED)
    for name in COPIED:
        assert (CHART / "files" / name).read_text() == (MONITORING / name).read_text(), "run `make chart`"


def test_versions_are_those_of_vaultsync() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)
