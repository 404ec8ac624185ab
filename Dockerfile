# For a release pass the base by digest: --build-arg BASE=python:3.11-slim-bookworm@sha256:...
# An index or a certificate of your own: --secret id=pip.conf,src=pip.conf
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
# For the native engine. Its version is the base's: what a base brings is pinned by the base's digest.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv --without-pip /opt/bitgear
# The dependencies alone, so that a change of the source does not install them again.
COPY pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    python3 -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > requirements.txt \
    && python3 -m pip --python /opt/bitgear/bin/python install --only-binary :all: --no-compile -c constraints.txt -r requirements.txt
COPY README.md NOTICE CMakeLists.txt ./
COPY bitgear bitgear
COPY server server
COPY trainer trainer
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    REQUIRE_BITGEAR_NATIVE=1 python3 -m pip --python /opt/bitgear/bin/python install --no-compile --no-deps .
# Away with what packages carry for their own developers. Then bytecode, since nobody can write it later: it halves the
# time to the first answer. It is never checked against the source, so it does not depend on the time of the build.
RUN find /opt/bitgear/lib -type d \( -name tests -o -name test \) -prune -exec rm -rf {} + \
    && rm -rf /opt/bitgear/lib/python3*/site-packages/onnx/backend /opt/bitgear/include \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/bitgear/lib

FROM ${BASE}
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin bitgear
COPY --from=build /opt/bitgear /opt/bitgear
# Nothing is written at run time: the root file system may be read-only. 0.0.0.0 is all of the container, which
# publishes what it is told to; as a variable it holds whatever arguments `serve` is given. A port is to be set by its
# variable as well, and not by --port: the health check below knows the variable alone.
ENV PATH=/opt/bitgear/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    BITGEAR_HOST=0.0.0.0 \
    BITGEAR_PORT=8000
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['BITGEAR_PORT']), timeout=2); c.request('GET', '/v2/health/live'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["bitgear"]
CMD ["serve"]
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="bitgear" \
      org.opencontainers.image.description="Inference server that switches precision on demand" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
