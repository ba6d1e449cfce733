# Gateway and controller: no torch, no Ray.
# docker build -f deploy/docker/server.Dockerfile -t dspark-server:0.1.0 .
ARG PYTHON_IMAGE=python:3.11.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY constraints.txt deploy/docker/requirements-server.txt ./
RUN pip install --prefix=/install -r requirements-server.txt -c constraints.txt
COPY pyproject.toml README.md LICENSE ./
COPY services services
COPY kernels kernels
COPY operators operators
RUN pip install --prefix=/install --no-deps .

FROM ${PYTHON_IMAGE}
COPY --from=build /install /usr/local
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
USER 10001:10001
EXPOSE 8000 9900 9901
CMD ["python", "-m", "dspark.gateway", "--help"]
