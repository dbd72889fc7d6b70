#!/usr/bin/env bash
# Follows a training: ./launch/monitor_training.sh LOGFILE|RUN [FLAGS of launch.ec2 monitor]
# A log file is followed until Ctrl-C; a run until it is over, and its status is this command's.
set -euo pipefail
if [ $# -eq 0 ]; then
  sed -n '2,3s/^# //p' "$0" >&2
  exit 2
fi
if [ -f "$1" ]; then
  exec tail -n 50 -F "$1"
fi
here=$(cd "$(dirname "$0")/.." && pwd)
python=$here/.venv/bin/python
[ -x "$python" ] || python=python3
PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH} exec "$python" -m launch.ec2 monitor --follow "$@"
