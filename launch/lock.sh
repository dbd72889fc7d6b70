#!/usr/bin/env bash
# Makes launch/*.lock, what a machine installs, after a change of setup.cfg or constraints.txt.
# Needs uv: pip install uv
set -euo pipefail
cd "$(dirname "$0")/.."
lock() {
  local name=$1
  shift
  echo boto3 | uv pip compile --quiet --universal --python-version 3.12 --generate-hashes \
    --no-emit-index-url --no-annotate --no-header "$@" --constraint launch/constraints.txt \
    setup.cfg - --output-file "launch/$name.lock"
}
lock train --extra train
lock preprocess --extra train --extra preprocess
