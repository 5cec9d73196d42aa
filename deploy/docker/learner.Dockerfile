# An agent that runs learner ranks: DeepSpeed on torch, which brings the CUDA libraries that it needs in its wheels.
# On a CPU: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu
# Release builds pin the base by digest: --build-arg PYTHON_IMAGE=python:3.11-slim@sha256:…
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
ARG TORCH_INDEX=https://pypi.org/simple
WORKDIR /src
RUN python -m venv /opt/dapo \
    && /opt/dapo/bin/python -m pip install --no-cache-dir --index-url "${TORCH_INDEX}" torch==2.13.0
COPY requirements requirements
# CUDA's torch brings the triton that fits it.
RUN sed -i '/^triton==/d' requirements/cpu-lock.txt
# deepspeed is built from source, and looks for torch while it is.
RUN /opt/dapo/bin/python -m pip install --no-cache-dir -c requirements/cpu-lock.txt setuptools wheel numpy \
    && /opt/dapo/bin/python -m pip install --no-cache-dir --no-build-isolation -c requirements/cpu-lock.txt deepspeed==0.19.8
COPY pyproject.toml README.md LICENSE ./
COPY dapo dapo
COPY services services
RUN /opt/dapo/bin/python -m pip install --no-cache-dir --no-build-isolation -c requirements/cpu-lock.txt ".[learner]"
# The bill of materials of what is installed, in CycloneDX; its tool stays out of the image.
RUN python3 -m venv /opt/bill && /opt/bill/bin/python -m pip install --no-cache-dir cyclonedx-bom==7.5.0 \
    && /opt/bill/bin/cyclonedx-py environment /opt/dapo/bin/python -o /opt/dapo/sbom.cdx.json

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="dapo learner" org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin dapo \
    && install -d -o dapo -g dapo /srv/dapo
COPY --from=build /opt/dapo /opt/dapo
COPY examples /opt/dapo/examples
ENV PATH=/opt/dapo/bin:$PATH PYTHONUNBUFFERED=1
USER 10001
WORKDIR /srv/dapo
VOLUME /srv/dapo
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["sh", "-c", "test $(( $(date +%s) - $(stat -c %Y /tmp/agent-alive) )) -lt 20"]
ENTRYPOINT ["dapo"]
CMD ["agent", "--role", "learner", "--work-dir", "/srv/dapo", "--alive-file", "/tmp/agent-alive"]
