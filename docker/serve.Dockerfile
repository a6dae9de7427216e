# The server on CPUs, of artifacts of vitquant-int8, without PyTorch or a compiler: `make docker-serve`, docs/serving.md.
#
# Any Debian 12 or Ubuntu 24.04 root serves as the base.
ARG BASE=docker.io/library/debian:bookworm-slim

# What runs it: Python, and OpenMP for the native code.
FROM ${BASE} AS python
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends libgomp1 python3 \
    && rm -rf /var/lib/apt/lists/*

FROM python AS builder
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends ca-certificates g++ python3-venv
ENV PATH=/opt/venv/bin:/opt/uv/bin:$PATH \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    UV_COMPILE_BYTECODE=1 \
    UV_PROJECT_ENVIRONMENT=/opt/venv \
    UV_PYTHON_DOWNLOADS=never

# The dependencies, in a layer that only pyproject.toml and uv.lock change.
WORKDIR /vitquant
COPY pyproject.toml uv.lock ./
RUN python3 -m venv /opt/uv \
    && /opt/uv/bin/pip install --no-cache-dir "$(grep -o 'uv==[0-9.]*' pyproject.toml)" \
    && python3 -m venv --without-pip /opt/venv \
    && uv sync --frozen --only-group serve-int8 --no-cache

# The code; its native part for each of the CPUs that runtime/targets.py names.
COPY LICENSE README.md ./
COPY src src
RUN uv pip install --python /opt/venv --no-cache --no-deps . \
    && python -c "from vitquant.runtime import library; library.prebuild()"

FROM python
COPY --from=builder /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/v2/health/ready')"]
ENTRYPOINT ["vitquant", "serve", "--host", "0.0.0.0"]
CMD ["--artifact", "/artifact"]
