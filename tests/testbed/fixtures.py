"""The testbed as a pytest plugin. A conftest.py uses it with `pytest_plugins = ["tests.testbed.fixtures"]`.

testbed    the servers, started once for the session
openbao    the same with OpenBao instead of Vault
todays_vault  the same with the newest Vault that can be built
place      a namespace and a Vault path prefix of the test's own
vaultsync  starts vaultsync processes with vaultsync's own rights, and stops them after the test
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pytest

from tests.testbed.errors import TestbedError
from tests.testbed.place import Place
from tests.testbed.testbed import Options, Testbed
from tests.testbed.vaultsync import VaultsyncProcess


@pytest.fixture(scope="session")
def testbed_options() -> Options:
    """Override it in a conftest.py for another kind of testbed."""
    return Options()


@pytest.fixture(scope="session")
def testbed(testbed_options: Options, request: pytest.FixtureRequest) -> Iterator[Testbed]:
    """The servers; builds missing programs first, with the progress on the terminal."""
    yield from _started(testbed_options, request)


@pytest.fixture(scope="session")
def openbao(request: pytest.FixtureRequest) -> Iterator[Testbed]:
    """Separate servers with OpenBao instead of Vault; a module uses them by its own fixture `testbed`."""
    yield from _started(Options(vault="openbao"), request)


@pytest.fixture(scope="session")
def todays_vault(request: pytest.FixtureRequest) -> Iterator[Testbed]:
    """Separate servers with today's Vault, on storage; a module uses them by its own fixture `testbed`."""
    yield from _started(Options(vault="1.21", vault_storage="raft"), request)


def _started(options: Options, request: pytest.FixtureRequest) -> Iterator[Testbed]:
    capture = request.config.pluginmanager.getplugin("capturemanager")
    try:
        with capture.global_and_fixture_disabled():
            made = Testbed(options)
            made.__enter__()
    except TestbedError as error:
        # One line instead of a traceback for each test.
        pytest.exit(f"testbed: {error}", returncode=3)
    yield made
    made.stop()


@pytest.fixture
def place(testbed: Testbed) -> Iterator[Place]:
    """A namespace and a Vault path prefix of the test, with the SecretStore `vault`."""
    with Place(testbed) as made:
        yield made


@pytest.fixture
def elsewhere(testbed: Testbed) -> Iterator[Place]:
    """A second place."""
    with Place(testbed) as made:
        yield made


class VaultsyncFactory:
    """Starts vaultsync processes and stops them all at the end.

    Args:
        env: settings of all of them.
        audit: whether they receive entries of Vault's audit device.
    """

    def __init__(self, testbed: Testbed, env: Mapping[str, str] | None = None, *, audit: bool = True) -> None:
        self.testbed = testbed
        self.env = env or {}
        self.audit = audit
        self.started: list[VaultsyncProcess] = []

    def __call__(
        self,
        env: Mapping[str, str] | None = None,
        *,
        name: str = "vaultsync",
        arguments: Sequence[str] = ("run",),
        start: bool = True,
        audit: bool = True,
    ) -> VaultsyncProcess:
        """Starts a process, and enables an audit device to it (only with `start`)."""
        settings = {**self.env, **(env or {})}
        process = VaultsyncProcess(self.testbed.identity, self.testbed.work, name, settings, arguments)
        self.started.append(process)
        if start:
            process.start()
        if start and audit and self.audit:
            process.wait_until_listening()
            self.testbed.audit_to(process.audit_name, process.audit_address)
        return process

    def stop(self) -> None:
        for process in self.started:
            self.testbed.no_audit_to(process.audit_name)
            process.stop()


@pytest.fixture
def vaultsync(testbed: Testbed, request: pytest.FixtureRequest) -> Iterator[VaultsyncFactory]:
    """Starts vaultsync: `vaultsync()`, or with settings `vaultsync({"VAULTSYNC_…": "…"})`; failures show its output."""
    yield from stopped_in_the_end(VaultsyncFactory(testbed), request)


def stopped_in_the_end(factory: VaultsyncFactory, request: pytest.FixtureRequest) -> Iterator[VaultsyncFactory]:
    """The body of a fixture like `vaultsync`."""
    yield factory
    factory.stop()
    for process in factory.started:
        request.node.add_report_section("teardown", process.name, process.output())
