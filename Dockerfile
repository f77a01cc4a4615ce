# gnomon serve in a container.
#
#   docker build --target cpu --tag gnomon:cpu .      ONNX Runtime, no torch
#   docker build --target cuda --tag gnomon:cuda .    torch for CUDA beside it
#
# `make image` builds the first with docker, podman or buildah. BASE is a Debian or Ubuntu with Python 3.11 or newer in
# its packages.
ARG BASE=debian:trixie-slim

# ---- the system of every stage: Python and the certificates of the hub
FROM ${BASE} AS python
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/debconf/*-old /var/log/*.log /var/log/apt

# ---- packages, in a virtual environment without pip
FROM python AS packages
RUN apt-get update && apt-get install --yes --no-install-recommends python3-venv
RUN python3 -m venv /tools && python3 -m venv --without-pip /app/.venv
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
COPY . .
RUN /tools/bin/pip --python /app/.venv/bin/python install --no-compile --constraint constraints.txt '.[serve]'
# What no program here reads: tests of packages, stubs, headers, and ONNX Runtime's library for C, which its module for
# Python does not link. Bytecode is 30 MB, and a start takes 1.8 s with it, 3.0 s without
RUN cd /app/.venv/lib/python3.*/site-packages \
    && find . -type d \( -name tests -o -path ./onnx/backend/test \) -prune -exec rm -r {} + \
    && find . -type f \( -name '*.pyi' -o -name '*.h' -o -name '*.hpp' \) -delete \
    && rm onnxruntime/capi/libonnxruntime.so.* \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash .

FROM packages AS packages-cuda
RUN /tools/bin/pip --python /app/.venv/bin/python install --no-compile --constraint constraints.txt torch
RUN cd /app/.venv/lib/python3.*/site-packages \
    && rm -r torch/include torch/share \
    && find . -type f -name '*.pyi' -delete \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash .

# ---- what both images have
FROM python AS runtime
# infinity's users mount a volume at /app/.cache. Whoever runs the image (--user) may write there
RUN mkdir --parents --mode 1777 /app/.cache
ENV PATH=/app/.venv/bin:$PATH \
    HOME=/app \
    HF_HOME=/app/.cache/huggingface \
    XDG_CACHE_HOME=/app/.cache \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    GNOMON_HOST=0.0.0.0
WORKDIR /app
VOLUME /app/.cache
EXPOSE 7997
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["gnomon", "serve"]
HEALTHCHECK --interval=15s --timeout=5s --start-period=300s --retries=3 CMD ["gnomon", "serve", "--probe"]

FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=packages-cuda /app/.venv /app/.venv

# the last stage is what a build without --target makes
FROM runtime AS cpu
COPY --from=packages /app/.venv /app/.venv
