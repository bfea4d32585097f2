"""Changes in OpenBao's web UI reach the Kubernetes Secret: a real browser clicks, vaultsync heals.

Each step's picture is kept in build/screenshots; docs/ has copies of some, as openbao-<picture>.png. They show no
values, as the UI masks them.
"""

import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, sync_playwright

from tests.integration.test_healing import SEED, another
from tests.testbed import build, pins
from tests.testbed.fixtures import VaultsyncFactory
from tests.testbed.place import Place
from tests.testbed.testbed import Testbed

PROJECT = Path(__file__).parents[2]
SCREENSHOTS = PROJECT / "build" / "screenshots"
PATIENCE = 20.0
"""Seconds: for a page of the UI, and for a value on its way."""

PERSON = 'path "secret/*" { capabilities = ["create", "read", "update", "patch", "delete", "list"] }'

# Chromium's sandbox needs rights that a container, or root, does not give; the only page it opens is the testbed's own.
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
FONTS = '<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig><dir>{}</dir></fontconfig>'


@pytest.fixture(scope="module")
def testbed(openbao: Testbed, request: pytest.FixtureRequest) -> Testbed:
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        build.ensure([pins.CHROMIUM])
    return openbao


@pytest.fixture
def place(testbed: Testbed) -> Iterator[Place]:
    """A place with a readable name for the screenshots."""
    with Place(testbed, "shop") as made:
        yield made


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """A page in Chromium with its own libraries and fonts, independent of the machine."""
    binary = build.ensure([pins.CHROMIUM])["chromium"]
    fonts = tmp_path / "fonts.conf"
    fonts.write_text(FONTS.format(binary.parent / "fonts"))
    env: dict[str, str | float | bool] = {
        **os.environ,
        "LD_LIBRARY_PATH": str(binary.parent / "lib"),
        "FONTCONFIG_FILE": str(fonts),
    }
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=ARGUMENTS, env=env)
        made = browser.new_page(viewport={"width": 1120, "height": 630})
        made.set_default_timeout(PATIENCE * 1000)
        yield made
        if not made.is_closed():
            made.screenshot(path=SCREENSHOTS / "last.png")
        browser.close()


class Ui:
    """OpenBao's web UI, logged in."""

    def __init__(self, page: Page, place: Place) -> None:
        self.page = page
        self.place = place
        self.pictures: list[str] = []

    def log_in(self, token: str) -> None:
        self.page.goto(f"{self.place.testbed.vault.address}/ui/vault/auth?with=token")
        self.page.locator("input[name=token]").wait_for()
        self.picture("log-in")
        self.page.locator("input[name=token]").fill(token)
        self.page.get_by_role("button", name="Sign In").click()
        self._link("secret/").wait_for()
        self.picture("logged-in")

    def open_secret(self, name: str) -> None:
        """Opens the secret through the menus."""
        self.page.get_by_role("link", name="Secrets engines").click()
        self._link("secret/").click()
        self._link(f"{self.place.name}/").click()
        self._link(name).click()
        self.page.get_by_role("button", name="Delete", exact=True).wait_for()

    def show_metadata(self) -> None:
        self.page.get_by_role("link", name="Metadata", exact=True).click()
        self.page.get_by_text("Custom metadata", exact=True).wait_for()

    def delete(self, choice: str, picture: str, *, reloads: bool) -> None:
        """Chooses one of the three ways to delete; the picture is of the choice. After two of them the UI reloads."""
        self.page.get_by_role("button", name="Delete", exact=True).click()
        dialog = self.page.locator("[data-test-modal-div]").filter(has_text="Delete Secret?")
        dialog.get_by_label(choice).check()
        self.picture(picture)
        with self.page.expect_event("load") if reloads else nullcontext():
            dialog.get_by_role("button", name="Delete", exact=True).click()
        dialog.wait_for(state="hidden")

    def edit(self, key: str, value: str) -> None:
        self.page.get_by_role("link", name="Create new version").click()
        self.page.locator(f"textarea[name={key}]").fill(value)
        self.picture("edit")
        self.page.get_by_role("button", name="Save", exact=True).click()
        self.page.get_by_role("link", name="Create new version").wait_for()

    def sees_version(self, number: int) -> None:
        self.page.get_by_role("button", name=f"Version {number}", exact=True).wait_for()

    def picture(self, name: str) -> None:
        self.pictures.append(name)
        self.page.screenshot(path=SCREENSHOTS / f"{len(self.pictures)}-{name}.png", animations="disabled")

    def _link(self, name: str) -> Locator:
        return self.page.get_by_role("link", name=name, exact=True).last


def test_changes_in_the_web_ui_reach_the_secret(place: Place, vaultsync: VaultsyncFactory, page: Page) -> None:
    vaultsync()
    place.external_secret("app", {"password": ("app", "password")}, annotations=SEED)
    values = place.wait_for_secret("app", PATIENCE)
    place.wait_for(lambda: mark(place) == "vaultsync", PATIENCE, "the ownership of the created path")
    # Not root's token: the UI forgets that one whenever it reloads.
    place.vault.policy("person", PERSON)
    ui = Ui(page, place)
    ui.log_in(place.vault.token(["person"], default=True))
    ui.open_secret("app")
    ui.sees_version(1)
    ui.picture("secret")
    ui.show_metadata()
    page.get_by_text("managed-by", exact=True).wait_for()
    ui.picture("metadata")

    seen = [values]
    for choice, picture, version in (
        ("Delete this version", "delete", 2),
        ("Destroy this version", "destroy", 3),
        ("Destroy all versions", "delete-metadata", 1),  # and version numbers start again
    ):
        ui.open_secret("app")
        ui.delete(choice, picture, reloads=version > 1)
        values = place.wait_for(lambda: another(place, "app", seen[-1]), PATIENCE, f"a fresh value after: {choice}")
        assert set(values) == {"password"}
        assert values not in seen, "the value is new, not an earlier one"
        assert place.read("app") == values
        assert place.version("app") == version
        seen.append(values)
        ui.open_secret("app")
        ui.sees_version(version)
        ui.picture(f"after-{picture}")

    ui.edit("password", "typed-by-a-person")
    place.wait_for_secret("app", PATIENCE, password="typed-by-a-person")
    place.external_secret("witness", {"password": ("witness", "password")}, annotations=SEED)
    place.wait_for_secret("witness", PATIENCE)
    assert place.version("app") == 2, "vaultsync keeps the operator's value"
    assert place.secret("app") == {"password": "typed-by-a-person"}
    ui.open_secret("app")
    ui.sees_version(2)
    ui.picture("after-edit")
    shown = {file.stem.removeprefix("openbao-") for file in (PROJECT / "docs").glob("openbao-*.png")}
    assert shown <= {*ui.pictures}, "the manual shows the same steps"


def mark(place: Place) -> str | None:
    """The owner of the secret `app`, by its custom metadata."""
    found = place.vault.metadata(place.path("app")) or {}
    return (found.get("custom_metadata") or {}).get("managed-by")
