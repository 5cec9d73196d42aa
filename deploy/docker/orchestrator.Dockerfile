# The run service: REST, gRPC, the page; it leads runs. No torch.
# Release builds pin the base by digest: --build-arg PYTHON_IMAGE=python:3.11-slim@sha256:…
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY requirements requirements
COPY dapo dapo
COPY services services
RUN python -m venv /opt/dapo \
    && /opt/dapo/bin/python -m pip install --no-cache-dir -c requirements/cpu-lock.txt ".[tracking,kubernetes,object-store]"
# The bill of materials of what is installed, in CycloneDX; its tool stays out of the image.
RUN python3 -m venv /opt/bill && /opt/bill/bin/python -m pip install --no-cache-dir cyclonedx-bom==7.5.0 \
    && /opt/bill/bin/cyclonedx-py environment /opt/dapo/bin/python -o /opt/dapo/sbom.cdx.json

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="dapo orchestrator" org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin dapo \
    && install -d -o dapo -g dapo /srv/dapo
COPY --from=build /opt/dapo /opt/dapo
COPY examples /opt/dapo/examples
ENV PATH=/opt/dapo/bin:$PATH PYTHONUNBUFFERED=1 MPLCONFIGDIR=/tmp/matplotlib
USER 10001
WORKDIR /srv/dapo
VOLUME /srv/dapo
EXPOSE 8400 8401
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8400/readyz', timeout=4)"]
ENTRYPOINT ["dapo"]
CMD ["serve", "--host", "0.0.0.0", "--launcher", "attached", "--state-dir", "/srv/dapo"]
