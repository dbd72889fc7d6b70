#!/usr/bin/env bash
# Lint, format, types and tests, in .venv, which it makes or reuses. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/venv.sh

make_venv .venv preprocess,ray,train,aws,remote,dev
export PATH="$PWD/.venv/bin:$PATH" TF_CPP_MIN_LOG_LEVEL=3
# Two tests run at once, on small tensors: more threads would cost more than they gain.
export TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1

# ruff reads no setup.cfg; its settings are kept there all the same, with those of the other tools.
setting() {
  python -c 'import configparser, sys
config = configparser.ConfigParser(); config.read("setup.cfg"); print(config["ruff"][sys.argv[1]])' "$1"
}
style=(--line-length "$(setting line-length)" --target-version "$(setting target-version)")

echo "Lint ..."
ruff check "${style[@]}" --select "$(setting select)" --ignore "$(setting ignore)" \
  --per-file-ignores "$(setting per-file-ignores)" .
echo "Format ..."
ruff format --check "${style[@]}" .
echo "Types ..."
mypy
echo "Tests ..."
# Two at a time on two cores and more; more would want more memory than they save time.
python -m pytest -n "$(($(nproc) > 1 ? 2 : 1))" "$@"
