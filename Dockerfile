# The tag names the exact Python and Debian; both stages must name the same. For a release pin it by digest too
# (`docker buildx imagetools inspect python:3.13.15-slim-trixie` tells it): no image registry was reachable where this was written.
FROM python:3.13.15-slim-trixie AS build

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /src

# The dependencies first: this layer changes with the lock files alone.
COPY requirements.lock requirements-build.lock ./
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --require-hashes --only-binary=:all: --requirement requirements-build.lock \
    && python -m venv /opt/vaultsync \
    && /opt/vaultsync/bin/pip install --no-compile --require-hashes --only-binary=:all: --requirement requirements.lock

COPY pyproject.toml README.md LICENSE ./
COPY vaultsync vaultsync
# Compiled to bytecode, so that a start needs neither a writable file system nor the time for it; by hash, as with times in it
# no two builds would have the same files. The layers' own times follow SOURCE_DATE_EPOCH, if the image is built with
# `docker buildx build --build-arg SOURCE_DATE_EPOCH=… --output type=image,rewrite-timestamp=true`.
RUN /opt/build/bin/hatchling build --target wheel \
    && /opt/vaultsync/bin/pip install --no-compile --no-index --no-deps dist/*.whl \
    && /opt/vaultsync/bin/pip check \
    && /opt/vaultsync/bin/pip uninstall --yes pip \
    && /opt/vaultsync/bin/python -m compileall -q -f --invalidation-mode unchecked-hash /opt/vaultsync/lib


FROM python:3.13.15-slim-trixie

LABEL org.opencontainers.image.title="vaultsync" \
      org.opencontainers.image.description="Seeds missing Vault values for external-secrets and heals deleted and rotated ones" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/python:3.13.15-slim-trixie"

COPY --from=build /opt/vaultsync /opt/vaultsync
# HOME: the user is in no passwd file, and without a home directory the kubernetes package can't be imported.
ENV PATH=/opt/vaultsync/bin:$PATH \
    HOME=/nonexistent \
    PYTHONDONTWRITEBYTECODE=1

# A number, so that Kubernetes' runAsNonRoot can tell that it is not root. Nothing in the image belongs to this user.
USER 65532:65532
EXPOSE 8080 8220/udp
ENTRYPOINT ["vaultsync"]
CMD ["run"]
