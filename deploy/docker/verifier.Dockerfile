# An agent that runs verifiers: graders of text, without torch.
# Release builds pin the base by digest: --build-arg PYTHON_IMAGE=python:3.11-slim@sha256:…
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY requirements requirements
COPY dapo dapo
COPY services services
RUN python -m venv /opt/dapo \
    && /opt/dapo/bin/python -m pip install --no-cache-dir -c requirements/cpu-lock.txt ".[graders]"
# The bill of materials of what is installed, in CycloneDX; its tool stays out of the image.
RUN python3 -m venv /opt/bill && /opt/bill/bin/python -m pip install --no-cache-dir cyclonedx-bom==7.5.0 \
    && /opt/bill/bin/cyclonedx-py environment /opt/dapo/bin/python -o /opt/dapo/sbom.cdx.json

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="dapo verifier" org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin dapo \
    && install -d -o dapo -g dapo /srv/dapo
COPY --from=build /opt/dapo /opt/dapo
ENV PATH=/opt/dapo/bin:$PATH PYTHONUNBUFFERED=1
USER 10001
WORKDIR /srv/dapo
VOLUME /srv/dapo
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["sh", "-c", "test $(( $(date +%s) - $(stat -c %Y /tmp/agent-alive) )) -lt 20"]
ENTRYPOINT ["dapo"]
CMD ["agent", "--role", "verifier", "--gpus", "none", "--work-dir", "/srv/dapo", "--alive-file", "/tmp/agent-alive"]
