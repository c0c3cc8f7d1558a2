# syntax=docker/dockerfile:1
# The sidecar on a base without a shell, as a user without a name, for a read-only root file system.
#
#   docker build --tag idtoken-sidecar .
#   docker run --read-only --network=host idtoken-sidecar run --to https://billing-abc123-uc.a.run.app
#
# Both bases are Debian 12 with Python 3.11: what is compiled in the first runs in the second. Pin their contents with
# `--build-arg BASE_DIGEST=@sha256:…` (and BUILDER_DIGEST); the tags alone follow security updates.
ARG BUILDER=docker.io/library/python:3.11-slim-bookworm
ARG BUILDER_DIGEST=
ARG BASE=gcr.io/distroless/python3-debian12:nonroot
ARG BASE_DIGEST=

FROM ${BUILDER}${BUILDER_DIGEST} AS build
WORKDIR /src
# Where packages come from is the builder's own affair: PIP_INDEX_URL and the like, for a mirror.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_BREAK_SYSTEM_PACKAGES=1
RUN command -v gcc >/dev/null \
    || { apt-get update -qq && apt-get install -qq --yes --no-install-recommends gcc libc6-dev >/dev/null; }
COPY requirements.lock requirements-compile.lock ./
RUN python3 -m venv /build \
    && /build/bin/python -m pip install --quiet --require-hashes --no-deps --only-binary=:all: \
        --requirement=requirements-compile.lock \
    && python3 -m pip install --quiet --require-hashes --no-deps --only-binary=:all: --no-compile \
        --target=/opt/idtoken-sidecar --requirement=requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY release ./release
COPY sidecar ./sidecar
COPY data ./data
# The data path as machine code, beside its source. And bytecode that is never checked against its source: nothing writes
# there, and times in the layer mean nothing.
RUN IDTOKEN_SIDECAR_COMPILED=1 /build/bin/python -m hatchling build --target wheel --directory /wheel \
    && python3 -m pip install --quiet --no-deps --no-compile --target=/opt/idtoken-sidecar /wheel/*.whl \
    && cd /opt/idtoken-sidecar \
    && rm -rf hatchling* packaging* pathspec* pluggy* trove_classifiers* bin share \
    && find . -name '*.pyi' -delete \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash .

FROM ${BASE}${BASE_DIGEST}
ARG BASE
ARG VERSION=0.2.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="idtoken-sidecar" \
      org.opencontainers.image.description="ID tokens for calls to Google Cloud services: your app calls localhost" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
COPY --from=build /opt/idtoken-sidecar /opt/idtoken-sidecar
ENV PYTHONPATH=/opt/idtoken-sidecar PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
WORKDIR /
# The admin server, where it listens on more than loopback; the proxy itself is for this instance only.
EXPOSE 9787
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python3", "-m", "sidecar", "healthcheck"]
ENTRYPOINT ["python3", "-m", "sidecar"]
CMD ["run"]
