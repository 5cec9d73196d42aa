# An agent that runs generators, each the parent of an SGLang server. Two targets: `cuda` on SGLang's own image, and `cpu`.
# Release builds pin both bases by digest: --build-arg SGLANG_IMAGE=lmsysorg/sglang:v0.5.21@sha256:…
ARG PYTHON_IMAGE=python:3.11-slim
ARG SGLANG_IMAGE=lmsysorg/sglang:v0.5.21

FROM ${PYTHON_IMAGE} AS build-cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
RUN python -m venv /opt/dapo \
    && /opt/dapo/bin/python -m pip install --no-cache-dir --index-url "${TORCH_INDEX}" torch==2.13.0
COPY requirements requirements
# As scripts/install.sh: without the CUDA wheels that an ordinary install of sglang brings.
RUN /opt/dapo/bin/python -m pip install --no-cache-dir -c requirements/cpu-lock.txt setuptools wheel numpy \
    && /opt/dapo/bin/python -m pip install --no-cache-dir -c requirements/cpu-lock.txt -r requirements/sglang-cpu.txt \
    && /opt/dapo/bin/python -m pip install --no-cache-dir --no-deps torchvision==0.16.2 timm==1.0.16 sglang==0.5.21
COPY pyproject.toml README.md LICENSE ./
COPY dapo dapo
COPY services services
RUN /opt/dapo/bin/python -m pip install --no-cache-dir --no-build-isolation -c requirements/cpu-lock.txt .
# The bill of materials of what is installed, in CycloneDX; its tool stays out of the image.
RUN python3 -m venv /opt/bill && /opt/bill/bin/python -m pip install --no-cache-dir cyclonedx-bom==7.5.0 \
    && /opt/bill/bin/cyclonedx-py environment /opt/dapo/bin/python -o /opt/dapo/sbom.cdx.json

FROM ${PYTHON_IMAGE} AS cpu
LABEL org.opencontainers.image.title="dapo generator (CPU)" org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin dapo \
    && install -d -o dapo -g dapo /srv/dapo
COPY --from=build-cpu /opt/dapo /opt/dapo
ENV PATH=/opt/dapo/bin:$PATH PYTHONUNBUFFERED=1
USER 10001
WORKDIR /srv/dapo
VOLUME /srv/dapo
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["sh", "-c", "test $(( $(date +%s) - $(stat -c %Y /tmp/agent-alive) )) -lt 20"]
ENTRYPOINT ["dapo"]
CMD ["agent", "--role", "generator", "--gpus", "none", "--work-dir", "/srv/dapo", "--alive-file", "/tmp/agent-alive"]

FROM ${SGLANG_IMAGE} AS cuda
LABEL org.opencontainers.image.title="dapo generator (CUDA)" org.opencontainers.image.licenses="Apache-2.0"
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY dapo dapo
COPY services services
# sglang, torch and transformers are the image's.
RUN python3 -m pip install --no-cache-dir . \
    && useradd --uid 10001 --create-home --shell /usr/sbin/nologin dapo \
    && install -d -o dapo -g dapo /srv/dapo
# The bill of materials of what is installed, in CycloneDX; of which the tool is no part.
RUN python3 -m venv /opt/bill && /opt/bill/bin/python -m pip install --no-cache-dir cyclonedx-bom==7.5.0 \
    && /opt/bill/bin/cyclonedx-py environment python3 -o /opt/sbom.cdx.json \
    && install -D /opt/sbom.cdx.json /opt/dapo/sbom.cdx.json && rm -r /opt/bill /opt/sbom.cdx.json
ENV PYTHONUNBUFFERED=1
USER 10001
WORKDIR /srv/dapo
VOLUME /srv/dapo
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["sh", "-c", "test $(( $(date +%s) - $(stat -c %Y /tmp/agent-alive) )) -lt 20"]
ENTRYPOINT ["dapo"]
CMD ["agent", "--role", "generator", "--work-dir", "/srv/dapo", "--alive-file", "/tmp/agent-alive"]
