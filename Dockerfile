# One image for every part: service, worker, migration, MLflow, nodes of Ray. Which one it is, docker-compose.yml says.
ARG PYTHON=python:3.11.13-slim-bookworm@sha256:86adf8dbadc3d6e82ee5dd2c74bec2e1c2467cdad47886280501df722372d2e1

FROM ${PYTHON} AS build
RUN python -m venv /opt/anon_tune
WORKDIR /build
COPY docker/*.lock docker/
# The build of torch: cuda, or cpu, for which PIP_EXTRA_INDEX_URL names PyTorch's own index of wheels.
ARG TORCH=cuda
ARG PIP_EXTRA_INDEX_URL=
RUN /opt/anon_tune/bin/pip install --no-cache-dir --no-deps --require-hashes \
    --requirement docker/runtime.lock --requirement docker/torch-${TORCH}.lock
COPY pyproject.toml README.md LICENSE ./
COPY anon_tune anon_tune
COPY workers workers
COPY dashboards dashboards
COPY search_spaces search_spaces
RUN /opt/anon_tune/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM ${PYTHON}
# A compiler, for torch.compile on CPU and for the fused optimizer's C kernel.
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ libc6-dev && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 anon && mkdir -p /var/lib/anon_tune /artifacts && chown anon /var/lib/anon_tune /artifacts
COPY --from=build /opt/anon_tune /opt/anon_tune
COPY docker/mlflow_auth.ini /opt/anon_tune/
USER anon
WORKDIR /home/anon
ENV PATH=/opt/anon_tune/bin:$PATH ANON_TUNE_HOME=/var/lib/anon_tune PYTHONUNBUFFERED=1
CMD ["anon-tune", "--help"]
