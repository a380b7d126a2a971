# One image for every part: service, worker, migration and MLflow. Which one it is, docker-compose.yml says.
FROM python:3.11-slim

# A compiler, for torch.compile on CPU and for the fused optimizer's C kernel.
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ libc6-dev && rm -rf /var/lib/apt/lists/*

WORKDIR /app
COPY requirements.lock ./
# For torch without CUDA, or another, name PyTorch's own index of wheels: --build-arg PIP_EXTRA_INDEX_URL=...
ARG PIP_EXTRA_INDEX_URL=
RUN pip install --no-cache-dir --requirement requirements.lock

COPY pyproject.toml README.md LICENSE ./
COPY anon_tune anon_tune
COPY workers workers
COPY dashboards dashboards
COPY search_spaces search_spaces
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

RUN useradd --create-home --uid 1000 anon && mkdir -p /var/lib/anon_tune /artifacts && chown anon /var/lib/anon_tune /artifacts
USER anon
WORKDIR /home/anon
ENV ANON_TUNE_HOME=/var/lib/anon_tune PYTHONUNBUFFERED=1
CMD ["anon-tune", "--help"]
