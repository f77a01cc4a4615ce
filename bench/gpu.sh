#!/usr/bin/env bash
# Checks and measures gnomon on a GPU, in at most 8 minutes; installs nothing. What it does: bench/gpu/README.md.
#   bench/gpu.sh                               all parts; writes bench/gpu/results/DEVICE.json
#   bench/gpu.sh --device cpu                  the same code with tiny models, to see that it runs
#   PYTHON=/path/to/python bench/gpu.sh --output gpu.json
set -eu
cd "$(dirname "$0")/.."
export PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
exec "${PYTHON:-python3}" -m bench.gpu.run "$@"
