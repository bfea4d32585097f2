"""The testbed's processes: they end by pid, also when the process that started them is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.testbed.errors import ServerError
from tests.testbed.identity import rbac_objects
from tests.testbed.kube import path_of
from tests.testbed.processes import Process, free_port
from tests.testbed.servers import ec_private_key

PROJECT = Path(__file__).parents[2]

PARENT = """
import signal, sys, time
from pathlib import Path
from tests.testbed.processes import Process, watchdog
signal.signal(signal.SIGINT, signal.default_int_handler)  # as it is not where a shell starts pytest behind it
work = Path(sys.argv[1])
watchdog.remove_at_death(work)
child = Process("child", ["sleep", "60"], log=work / "log")
child.start()
print(child.pid, flush=True)
time.sleep(60)
"""


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state not in ("Z", "X")


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 5
    while is_running(pid):
        assert time.monotonic() < deadline, f"{pid} still runs"
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_children_and_folders_go_with_their_parent(tmp_path: Path, number: signal.Signals) -> None:
    work = tmp_path / "work"
    work.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(work)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=PROJECT,
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_running(child)
        os.kill(parent.pid, number)
        parent.wait(5)
    wait_until_gone(child)
    deadline = time.monotonic() + 5
    while work.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    process = Process(
        "stubborn", ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done"], log=tmp_path / "log"
    )
    process.start()
    process.wait_until(lambda: "up" in process.output(), 5)
    assert process.stop(timeout=0.2) == -signal.SIGKILL
    assert not process.alive


def test_a_frozen_process_can_be_stopped(tmp_path: Path) -> None:
    process = Process("frozen", ["sleep", "60"], log=tmp_path / "log")
    process.start()
    process.freeze()
    assert process.stop(timeout=5) == -signal.SIGTERM


def test_a_server_that_dies_is_not_waited_for(tmp_path: Path) -> None:
    process = Process("broken", ["sh", "-c", "echo bad flag; exit 7"], log=tmp_path / "log")
    process.start()
    started = time.monotonic()
    with pytest.raises(ServerError, match=r"broken ended with code 7(.|\n)*bad flag"):
        process.wait_until(lambda: False, 30)
    assert time.monotonic() - started < 5


def test_output_is_that_of_this_start(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("from before\n")
    process = Process("echo", ["echo", "now"], log=log)
    process.start()
    process.wait(5)
    assert process.output() == "now\n"


def test_ports_are_given_once() -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50


def test_a_key_is_a_pem_of_the_right_length() -> None:
    lines = ec_private_key().splitlines()
    assert lines[0] == "-----BEGIN EC PRIVATE KEY-----"
    assert lines[-1] == "-----END EC PRIVATE KEY-----"
    assert ec_private_key() != ec_private_key()


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (("v1", "Secret", "a", "n"), "/api/v1/namespaces/n/secrets/a"),
        (("v1", "Namespace", "n"), "/api/v1/namespaces/n"),
        (
            ("external-secrets.io/v1", "ExternalSecret", None, "n"),
            "/apis/external-secrets.io/v1/namespaces/n/externalsecrets",
        ),
        (
            ("networking.k8s.io/v1", "NetworkPolicy", None, "n"),
            "/apis/networking.k8s.io/v1/namespaces/n/networkpolicies",
        ),
    ],
)
def test_paths_of_objects(arguments: tuple[str, ...], path: str) -> None:
    assert path_of(*arguments) == path


def test_only_rights_are_taken_from_the_manifests(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: Deployment\n---\nkind: ServiceAccount\nmetadata: {name: vaultsync}\n---\n")
    (tmp_path / "b.yaml").write_text("kind: ClusterRole\nmetadata: {name: vaultsync}\n")
    kinds = [(item["kind"], item["metadata"].get("namespace")) for item in rbac_objects(tmp_path)]
    assert kinds == [("ServiceAccount", "vaultsync"), ("ClusterRole", None)]
