# Ray with the engines: prefill, drafter, verifier, and Ray's head.
# CPU:  docker build -f deploy/docker/engine.Dockerfile -t dspark-engine:0.1.0 \
#         --build-arg TORCH_INDEX_URL=<index with CPU builds of torch> .
# CUDA: docker build -f deploy/docker/engine.Dockerfile -t dspark-engine:0.1.0-cuda .
ARG PYTHON_IMAGE=python:3.11.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
ARG TORCH_INDEX_URL=
WORKDIR /src
COPY constraints.txt ./
# torch first and alone: which build of it is taken depends on the index.
RUN pip install --prefix=/install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} \
      "$(grep '^torch==' constraints.txt)"
COPY pyproject.toml README.md LICENSE ./
COPY services services
COPY kernels kernels
COPY operators operators
RUN PYTHONPATH=/install/lib/python3.11/site-packages \
      pip install --prefix=/install . -c constraints.txt

FROM ${PYTHON_IMAGE}
# KubeRay starts Ray through bash and asks for its health with wget.
RUN apt-get update \
 && apt-get install -y --no-install-recommends bash wget libgomp1 \
 && rm -rf /var/lib/apt/lists/*
# Into the system's own folder: a login shell forgets any other PATH.
COPY --from=build /install /usr/local
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp RAY_USAGE_STATS_ENABLED=0
USER 10001:10001
CMD ["ray", "--version"]
