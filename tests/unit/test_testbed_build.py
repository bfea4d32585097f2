"""The testbed's builds, without building: what is refused and how it is said, what is kept, what ends when stopped."""

import base64
import contextlib
import dataclasses
import fcntl
import hashlib
import http.server
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import brotli
import pytest

from tests.testbed import build, pins
from tests.testbed.errors import BuildError, DiskSpaceError, MissingToolError

GIGABYTE = 1024**3


@pytest.fixture
def go_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = tmp_path / "go"
    shutil.copytree(pins.GO_DIRECTORY, copy)
    monkeypatch.setattr(pins, "GO_DIRECTORY", copy)
    return copy


@pytest.fixture
def builder(tmp_path: Path) -> build.Builder:
    return build.Builder(tmp_path, build.Progress(io.StringIO()), build.Commands())


def script(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


class TestKeys:
    @pytest.mark.parametrize(
        "name", ["go.mod", "go.sum", "trim.json", "files/github.com/hashicorp/vault/command/ssh.go"]
    )
    def test_a_changed_pin_is_another_folder(self, go_directory: Path, name: str) -> None:
        before = build.folder_of(pins.TODAYS_VAULT, Path("cache"))
        file = go_directory / "vault-1.21" / name
        file.write_text(file.read_text() + "\n")
        assert build.folder_of(pins.TODAYS_VAULT, Path("cache")) != before

    def test_changed_flags_are_another_folder(self) -> None:
        assert dataclasses.replace(pins.VAULT, ldflags="").key != pins.VAULT.key
        assert dataclasses.replace(pins.VAULT, tags="x").key != pins.VAULT.key

    def test_a_changed_hash_is_another_folder(self) -> None:
        assert dataclasses.replace(pins.ETCD, sha256="0" * 64).key != pins.ETCD.key

    def test_the_folder_names_the_version(self) -> None:
        assert build.folder_of(pins.VAULT, Path("cache")).name.startswith("vault-1.15.1-")

    def test_versions_are_those_of_the_pinned_modules(self) -> None:
        for program in [item for item in pins.ALL if isinstance(item, pins.GoProgram)]:
            assert f"{program.module} v{program.version}" in (program.source / "go.mod").read_text()


class TestCache:
    def test_what_is_there_is_not_built(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*arguments: object) -> None:
            raise AssertionError("built")

        monkeypatch.setattr(build, "_fill", refuse)
        build.folder_of(pins.ETCD, tmp_path).mkdir()
        found = build.ensure([pins.ETCD], tmp_path)
        assert found["etcd"].is_relative_to(build.folder_of(pins.ETCD, tmp_path))

    def test_a_failed_build_leaves_nothing(self, builder: build.Builder, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(program: pins.GoProgram, work: Path, log: Path) -> Path:
            (work / "half").mkdir()
            raise BuildError("no")

        monkeypatch.setattr(builder, "_build", fail)
        with pytest.raises(BuildError):
            builder.make(pins.VAULT)
        assert [path.name for path in builder.cache.iterdir()] == ["logs"]

    def test_a_second_process_waits_for_the_first_and_says_so(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        built: list[build.Program] = []
        monkeypatch.setattr(build, "_build_all", lambda builder, missing: built.extend(missing))
        out = io.StringIO()
        with (tmp_path / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            second = threading.Thread(target=build.ensure, args=([pins.ETCD], tmp_path, out))
            second.start()
            while "waiting" not in out.getvalue():
                time.sleep(0.005)
            build.folder_of(pins.ETCD, tmp_path).mkdir()  # what the first process built
        second.join()
        assert built == []

    def test_the_cache_is_where_the_user_wants_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
        monkeypatch.delenv("VAULTSYNC_TESTBED_CACHE", raising=False)
        assert build.cache_directory() == Path("/caches/vaultsync-testbed")
        monkeypatch.setenv("VAULTSYNC_TESTBED_CACHE", "/elsewhere")
        assert build.cache_directory() == Path("/elsewhere")


class TestWhatIsMissing:
    def test_disk(self) -> None:
        with pytest.raises(DiskSpaceError, match=r"kubernetes, vault: /cache has 1\.0 GB free, 5\.0 GB are needed"):
            build.check_disk([pins.KUBERNETES, pins.VAULT], [Path("/cache")], lambda folder: GIGABYTE)

    def test_enough_disk(self) -> None:
        build.check_disk([pins.KUBERNETES], [Path("/cache")], lambda folder: 3 * GIGABYTE)

    def test_neither_go_nor_a_way_to_install_it(self, builder: build.Builder, monkeypatch: pytest.MonkeyPatch) -> None:
        def no_pip() -> None:
            raise MissingToolError("python has no pip")

        monkeypatch.setattr(shutil, "which", lambda name: None)
        monkeypatch.setattr(build, "check_pip", no_pip)
        with pytest.raises(MissingToolError, match=r"Go 1\.26\.0 or newer: PATH has none, .* python has no pip"):
            builder.prepare_go([pins.VAULT])

    def test_a_go_that_is_too_old_is_named(
        self, builder: build.Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(program: build.Program) -> None:
            raise BuildError("pip found nothing")

        old = script(tmp_path, "go", "echo go1.21.3")
        monkeypatch.setattr(shutil, "which", lambda name: str(old))
        monkeypatch.setattr(builder, "make", fail)
        with pytest.raises(MissingToolError, match=r"PATH has only 1\.21\.3, .* pip found nothing"):
            builder.prepare_go([pins.VAULT])

    @pytest.mark.parametrize(
        ("text", "version"),
        [("go1.26.8\n", (1, 26, 8)), ("go1.27rc1", (1, 27, 0)), ("go1.27.3 X:nocoverage", (1, 27, 3)), ("devel", ())],
    )
    def test_go_versions(self, text: str, version: tuple[int, ...]) -> None:
        assert build.go_version(text) == version


class TestCommands:
    def test_a_failure_shows_the_last_lines_and_the_log(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        failing = script(tmp_path, "failing", "echo 'bad.go:1: nope' >&2; echo a/package >&2; exit 3")
        with pytest.raises(BuildError) as caught:
            build.Commands().run([str(failing)], log=log)
        assert "code 3" in str(caught.value)
        assert "bad.go:1: nope" in str(caught.value)
        assert str(log) in str(caught.value)
        assert "a/package" not in str(caught.value), "go's list of packages hides the error"

    def test_a_full_disk_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(DiskSpaceError, match="the disk filled up"):
            build.Commands().run(["sh", "-c", "echo 'x: no space left on device' >&2; exit 1"], log=tmp_path / "log")

    def test_an_interrupt_ends_what_runs_and_starts_nothing_more(self, tmp_path: Path) -> None:
        commands = build.Commands()
        failures: list[BaseException] = []
        started = threading.Event()

        def run() -> None:
            try:
                command = ["sh", "-c", "echo go >&2; sleep 60"]
                commands.run(command, log=tmp_path / "log", on_line=lambda line: started.set())
            except BuildError as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        assert started.wait(5)
        commands.cancel()
        thread.join(5)
        assert "interrupted" in str(failures[0])
        with pytest.raises(BuildError, match="interrupted"):
            commands.run(["true"], log=tmp_path / "log")


def test_a_long_build_gives_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "HEARTBEAT_SECONDS", 0.01)
    out = io.StringIO()
    progress = build.Progress(out)
    with progress.heartbeat():
        progress.doing("vault", "compiling")
        deadline = time.monotonic() + 5
        while out.getvalue().count("vault: compiling") < 2:
            assert time.monotonic() < deadline
            time.sleep(0.005)


SOURCE = """package a

import (
	"fmt"
	"example.com/gone"
	other "example.com/kept"
)

var plugins = map[string]func(){
	"gone": gone.New,
	"kept": other.New,
}

func removed() { gone.Do() }

func Setup(name string, kind string) {
	plugins["late"] = gone.New
	if name != "" {
		gone.Configure(name)
	}
	switch kind {
	case "removed":
		removed()
	case "kept":
		other.Do(name, gone.WithLogger(1))
	}
	fmt.Println(name)
}
"""


@pytest.fixture(scope="module")
def trim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("go"):
        pytest.skip("no Go in PATH")
    binary = tmp_path_factory.mktemp("trim") / "trim"
    env = {**os.environ, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOWORK": "off"}
    subprocess.run(["go", "build", "-o", str(binary), "."], cwd=pins.TRIM_SOURCE, env=env, check=True)
    return binary


class TestTrim:
    def run(
        self, trim: Path, folder: Path, source: str, imports: list[str], declarations: list[str]
    ) -> tuple[int, str, str]:
        (folder / "module").mkdir()
        (folder / "module" / "a.go").write_text(source)
        plan = folder / "plan.json"
        plan.write_text(json.dumps({"module": {"a.go": {"imports": imports, "declarations": declarations}}}))
        ended = subprocess.run([str(trim), str(plan), str(folder)], capture_output=True, text=True, check=False)
        return ended.returncode, ended.stderr, (folder / "module" / "a.go").read_text()

    def test_takes_out_all_that_hangs_on_an_import_and_nothing_else(self, trim: Path, tmp_path: Path) -> None:
        code, errors, text = self.run(trim, tmp_path, SOURCE, ["example.com/gone"], ["removed"])
        assert (code, errors) == (0, "")
        assert "gone" not in text
        assert "removed" not in text
        assert "other.Do(name)" in text
        assert '"kept": other.New' in text
        assert "fmt.Println(name)" in text

    def test_refuses_an_import_that_is_not_there(self, trim: Path, tmp_path: Path) -> None:
        code, errors, text = self.run(trim, tmp_path, SOURCE, ["example.com/unheard-of"], [])
        assert code == 1
        assert "does not import example.com/unheard-of" in errors
        assert text == SOURCE

    def test_refuses_a_declaration_that_is_not_there(self, trim: Path, tmp_path: Path) -> None:
        code, errors, _ = self.run(trim, tmp_path, SOURCE, [], ["unheardOf"])
        assert code == 1
        assert "does not declare unheardOf" in errors

    def test_refuses_to_change_what_the_program_does(self, trim: Path, tmp_path: Path) -> None:
        source = 'package a\n\nimport "example.com/gone"\n\nfunc Do() int {\n\treturn gone.Number()\n}\n'
        code, errors, text = self.run(trim, tmp_path, source, ["example.com/gone"], [])
        assert code == 1
        assert "a.go:6:9: gone is used where it cannot be taken out" in errors
        assert text == source

    def test_keeps_an_if_that_is_more_than_a_setting(self, trim: Path, tmp_path: Path) -> None:
        source = 'package a\n\nimport "example.com/gone"\n\nfunc Do(ok bool) {\n\tif ok {\n\t\tgone.Do()\n\t}\n}\n'
        code, errors, _ = self.run(trim, tmp_path, source, ["example.com/gone"], [])
        assert code == 1
        assert "cannot be taken out" in errors


@dataclasses.dataclass
class Registry:
    """An npm registry with one package, which misbehaves on cue.

    Attributes:
        answer: status, the bytes that are sent, and how many it says that it sends.
        asked: the paths.
        address: its own.
    """

    answer: tuple[int, bytes, int]
    asked: list[str] = dataclasses.field(default_factory=list)
    address: str = ""

    def send(self, package: bytes, status: int = 200, length: int | None = None) -> None:
        self.answer = status, package, len(package) if length is None else length


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    made = Registry((200, b"", 0))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append(self.path)
            status, package, length = made.answer
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(package)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    made.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"{made.address}/npm/")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


def tar(**files: bytes) -> bytes:
    """A tar file, gzipped as npm's are; names have `/` for `__`."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as content:
        for name, data in files.items():
            info = tarfile.TarInfo(name.replace("__", "/"))
            info.size = len(data)
            content.addfile(info, io.BytesIO(data))
    return made.getvalue()


def packed(program: bytes = b"a program", files: bytes | None = None) -> bytes:
    """An npm package: a program, and an archive with a file; each by brotli."""
    inner = tar(lib__file=b"a file") if files is None else files
    parts = {"package/bin/one.br": brotli.compress(program), "package/bin/files.tar.br": brotli.compress(inner)}
    return tar(**parts)


def pinned(package: bytes) -> pins.NpmPackage:
    """The pin of that package."""
    return pins.NpmPackage(
        name="browser",
        version="1.2.3",
        requirement="@scope/browser@1.2.3",
        sha512=base64.b64encode(hashlib.sha512(package).digest()).decode(),
        archives=("bin/files.tar.br",),
        binaries={"one": "bin/one.br"},
    )


class TestNpmPackages:
    def fetched(self, builder: build.Builder, program: pins.NpmPackage, work: Path) -> Path:
        return builder._unpack(program, builder._fetch(program, work, work / "log"), work)

    def test_without_npm_it_is_fetched_by_its_hash_and_unpacked(
        self, registry: Registry, builder: build.Builder, tmp_path: Path
    ) -> None:
        content = b"a program" * 500_000
        package = packed(content)
        registry.send(package)
        made = self.fetched(builder, pinned(package), tmp_path)
        assert registry.asked == ["/npm/@scope/browser/-/browser-1.2.3.tgz"]
        assert (made / "one").read_bytes() == content
        assert os.access(made / "one", os.X_OK)
        assert (made / "lib" / "file").read_bytes() == b"a file"

    @pytest.mark.parametrize("change", [lambda one: one + b"x", lambda one: one[:-1], lambda one: packed(b"another")])
    def test_another_package_than_the_pinned_one_is_not_unpacked(
        self, registry: Registry, builder: build.Builder, tmp_path: Path, change: Callable[[bytes], bytes]
    ) -> None:
        package = packed()
        registry.send(change(package))
        with pytest.raises(BuildError, match="is not the one that was pinned"):
            self.fetched(builder, pinned(package), tmp_path)
        assert not (tmp_path / "made").exists()

    def test_a_package_that_is_cut_off_is_not_unpacked(
        self, registry: Registry, builder: build.Builder, tmp_path: Path
    ) -> None:
        package = packed()
        registry.send(package[: len(package) // 2], length=len(package))
        with pytest.raises((BuildError, MissingToolError), match="scope/browser"):
            self.fetched(builder, pinned(package), tmp_path)
        assert not (tmp_path / "made").exists()

    def test_a_package_without_an_end_does_not_fill_the_disk(
        self, registry: Registry, builder: build.Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pins, "WHEEL_DISK_BYTES", 3 * build.CHUNK_BYTES)
        registry.send(bytes(20 * build.CHUNK_BYTES))
        with pytest.raises(BuildError, match="does not end"):
            self.fetched(builder, pinned(b""), tmp_path)
        assert (tmp_path / "package.tgz").stat().st_size <= 4 * build.CHUNK_BYTES

    def test_a_registry_that_does_not_have_it_or_is_none_is_named(
        self, registry: Registry, builder: build.Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        registry.send(b"no", status=404)
        with pytest.raises(MissingToolError, match=f"could not be fetched: {registry.address}/npm/.*404"):
            self.fetched(builder, pinned(b""), tmp_path)
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", "file:///etc")
        with pytest.raises(MissingToolError, match="is no web address"):
            self.fetched(builder, pinned(b""), tmp_path)
        assert len(registry.asked) == 1

    def test_an_answer_that_is_no_http_is_told(
        self, builder: build.Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:

            def answer() -> None:
                connection, _ = server.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"nonsense\r\n\r\n")

            thread = threading.Thread(target=answer)
            thread.start()
            monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"http://127.0.0.1:{server.getsockname()[1]}")
            monkeypatch.setenv("no_proxy", "127.0.0.1")
            monkeypatch.setattr(shutil, "which", lambda _: None)
            with pytest.raises(MissingToolError, match="could not be fetched"):
                builder._fetch(pinned(b""), tmp_path, tmp_path / "log")
            thread.join()

    @pytest.mark.parametrize(
        ("part", "words"),
        [
            ({}, "has no bin/one.br"),
            ({"package/bin/one.br": b""}, "is cut off"),
            ({"package/bin/one.br": brotli.compress(bytes(100_000))[:-4]}, "is cut off"),
            ({"package/bin/one.br": b"\xff" * 100}, "is not brotli-compressed"),
        ],
    )
    def test_a_part_that_is_not_whole_is_refused(self, tmp_path: Path, part: dict[str, bytes], words: str) -> None:
        with (
            tarfile.open(fileobj=io.BytesIO(tar(**part))) as content,
            pytest.raises(BuildError, match=words),
        ):
            build.decompress(content, "bin/one.br", tmp_path / "one")

    def test_an_archive_does_not_write_outside_its_folder(
        self, registry: Registry, builder: build.Builder, tmp_path: Path
    ) -> None:
        package = packed(files=tar(**{"../outside": b"x"}))
        registry.send(package)
        with pytest.raises(tarfile.FilterError):
            self.fetched(builder, pinned(package), tmp_path)
        assert not (tmp_path / "outside").exists()


def test_the_lists_of_what_is_trimmed_hold_no_source() -> None:
    for plan in pins.GO_DIRECTORY.glob("*/trim.json"):
        for files in json.loads(plan.read_text()).values():
            for cuts in files.values():
                assert set(cuts) <= {"imports", "declarations"}
                assert all(" " not in entry for entries in cuts.values() for entry in entries)
