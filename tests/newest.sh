#!/usr/bin/env bash
# The library's tests with the newest TensorFlow and numpy, in .venv-newest, which it makes or
# reuses for a week. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

dir=.venv-newest python=${PYTHON:-python3}
wanted="$("$python" --version) $(cksum <setup.cfg) week $(date +%G-%V)"
if [ "$(cat "$dir/.installed" 2>/dev/null)" != "$wanted" ]; then
  echo "Installing the newest TensorFlow into $dir (about 2 GB) ..."
  rm -f "$dir/.installed"
  "$python" -m venv "$dir"
  # With the boto3 that s3fs allows, so that both sides of S3 are there.
  "$dir/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade \
    --editable '.[remote,train]' tensorflow 'numpy >= 2' 'aiobotocore[boto3]' s3fs 'moto[server]' \
    hypothesis mypy pytest pytest-xdist scipy
  echo "$wanted" >"$dir/.installed"
fi
export PATH="$PWD/$dir/bin:$PATH" TF_CPP_MIN_LOG_LEVEL=3
python -c 'import numpy, sys, tensorflow as tf
print("Python", sys.version.split()[0], "TensorFlow", tf.__version__, "numpy", numpy.__version__)'
# Trainings and grids are the project's own; what people build on is the rest.
exec python -m pytest -n "$(($(nproc) > 1 ? 2 : 1))" -p no:cacheprovider tests/emotion_tfdata \
  --ignore=tests/emotion_tfdata/training --ignore=tests/emotion_tfdata/grid "$@"
