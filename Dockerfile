# Two images of the same server, built from the repository root:
#   docker build --target cuda -t loramux:cuda .
#   docker build --target cpu  -t loramux:cpu .
ARG CUDA_BASE=vllm/vllm-openai:v0.32.0
ARG CPU_BASE=python:3.12-slim-bookworm


FROM ${CPU_BASE} AS cpu-system
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libnuma1 \
    && rm -rf /var/lib/apt/lists/*


FROM cpu-system AS cpu-build
ENV LORAMUX_BACKEND=cpu UV_NO_CACHE=1
WORKDIR /app
# Install the packages first: they are 2 GB and change less often than the source, so Docker caches this layer.
COPY tools tools
COPY requirements requirements
COPY pyproject.toml ./
COPY server/loramux_server/__init__.py server/loramux_server/c_compiler.py server/loramux_server/gpus.py \
    server/loramux_server/machine.py server/loramux_server/
RUN python3 tools/setup.py packages
COPY . .
RUN python3 tools/setup.py serve


FROM cpu-system AS cpu
ENV PATH=/app/.venv/bin:$PATH \
    LORAMUX_HOST=0.0.0.0 LORAMUX_PORT=8000 LORAMUX_DATA_DIR=/data HF_HOME=/data/huggingface XDG_CACHE_HOME=/data/cache
RUN useradd --uid 10001 --user-group --create-home loramux && install --directory --owner loramux /data
WORKDIR /app
COPY --from=cpu-build /app /app
USER 10001:10001
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=5m --retries=3 \
    CMD ["python", "deploy/healthcheck.py"]
ENTRYPOINT ["loramux"]
CMD ["serve"]


FROM ${CUDA_BASE} AS cuda
ENV LORAMUX_HOST=0.0.0.0 LORAMUX_PORT=8000 LORAMUX_DATA_DIR=/data HF_HOME=/data/huggingface XDG_CACHE_HOME=/data/cache
# What is compiled for the GPU takes minutes. In the volume, the next container of this base finds it.
ENV VLLM_CACHE_ROOT=/data/cache/vllm TRITON_CACHE_DIR=/data/cache/triton TORCHINDUCTOR_CACHE_DIR=/data/cache/inductor \
    FLASHINFER_WORKSPACE_BASE=/data/cache/flashinfer CUDA_CACHE_PATH=/data/cache/cuda
RUN useradd --uid 10001 --user-group --create-home loramux && install --directory --owner loramux /data
WORKDIR /app
# vLLM, torch and CUDA are in the base image. Install the other dependencies, in the versions that were resolved with them.
COPY requirements requirements
RUN python3 -m pip install --no-cache-dir --requirement requirements/uv.txt \
    && python3 -m uv pip install --system --no-cache --excludes requirements/excluded.txt \
        --constraint requirements/cuda.txt --requirement requirements/runtime.in
COPY . .
RUN python3 -m uv pip install --system --no-cache --no-deps --editable .
USER 10001:10001
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python3", "deploy/healthcheck.py"]
ENTRYPOINT ["loramux"]
CMD ["serve"]
