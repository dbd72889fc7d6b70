#!/usr/bin/env bash
# Starts a training on EC2: ./launch/deploy.sh --data_dir=DIR [FLAGS of launch.ec2 deploy]
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
python=$here/.venv/bin/python
[ -x "$python" ] || python=python3
PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH} exec "$python" -m launch.ec2 deploy "$@"
