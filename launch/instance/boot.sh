# Runs once as root when the instance first starts, after the lines that set RUN, ATTEMPT, WORKER,
# SPOT, BUCKET, PREFIX, REGION, SOURCE_SHA256, DEADLINE and BOTO, and the function write_modules.
# Whatever happens here ends with a shutdown, and a shutdown ends the instance.
# shellcheck shell=bash disable=SC2154
set -euo pipefail

root=${EMOTION_TFDATA_ROOT:-/opt/emotion-tfdata}
units=${EMOTION_TFDATA_UNITS:-/etc/systemd/system}
export HOME=${HOME:-/root} AWS_DEFAULT_REGION=$REGION DEBIAN_FRONTEND=noninteractive
# Amazon Linux keeps /tmp in memory, and the systems' pip takes two more gigabytes of it to keep
# TensorFlow for another time, which there is not.
export TMPDIR=$root/tmp PIP_NO_CACHE_DIR=1
first=$root/first # modules that need no package
mkdir -p "$TMPDIR" "$first/launch/instance"
write_modules "$first/launch"
log=$root/run.log
exec 3>&1 >>"$log" 2>&1 # 3 is cloud-init's, which copies it to the console

export RUN ATTEMPT WORKER SPOT BUCKET PREFIX # for boot.py
# With the system's own Python, which cloud-init needs as well.
boot() (
  cd "$first"
  exec python3 -m launch.instance.boot "$@"
)

give_up() {
  local status=$?
  [ "$status" -eq 0 ] && return
  echo "The instance could not be set up (status $status); it ends itself."
  boot failed "$log" ||
    echo "This log did not get to S3. If it is a spot instance, EC2 may start others until the" \
      "time limit; this ends it now: stop $RUN"
  tail -n 40 "$log" >&3 || true
  shutdown -h now
}
trap give_up EXIT

three_times() {
  local wait
  for wait in 10 30; do
    "$@" && return
    echo "Failed: $*. Again in $wait s."
    sleep "$wait"
  done
  "$@"
}

echo "$(date -u '+%Y-%m-%d %H:%M:%S') Setting up for $RUN, attempt $ATTEMPT."

# 1. The time limit, before anything can go wrong. Persistent, so that a restart does not lose it.
if [ "$(date +%s)" -ge "$DEADLINE" ]; then
  echo "The time limit is over."
  exit 1
fi
cat >"$units/emotion-tfdata-deadline.service" <<EOF
[Unit]
Description=Ends this instance at its time limit, whatever happens
# It must outlive the shutdown that it asks for.
DefaultDependencies=no

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'shutdown -h now; sleep 120; systemctl poweroff --force --force'
EOF
cat >"$units/emotion-tfdata-deadline.timer" <<EOF
[Unit]
Description=The time limit of this instance

[Timer]
OnCalendar=$(date -u -d "@$DEADLINE" '+%Y-%m-%d %H:%M:%S UTC')
AccuracySec=1s
Persistent=true

[Install]
WantedBy=timers.target
EOF
systemctl daemon-reload
systemctl enable --now emotion-tfdata-deadline.timer

# 2. System packages: Ubuntu's or Amazon Linux's.
if command -v apt-get >/dev/null; then
  three_times apt-get -o DPkg::Lock::Timeout=300 update
  three_times apt-get -o DPkg::Lock::Timeout=300 install -y \
    python3 python3-venv libgl1 libglib2.0-0
else
  three_times dnf install -y python3.11 python3.11-pip mesa-libGL glib2
fi
python=${PYTHON:-}
for candidate in python3.12 python3.11 python3.10; do
  [ -n "$python" ] || python=$(command -v "$candidate" || true)
done
[ -n "$python" ] || { echo "No Python 3.10, 3.11 or 3.12 was installed."; exit 1; }

# 3. The project's source. Not earlier: a new role is not known everywhere at once.
three_times boot fetch "$SOURCE_SHA256" "$root/source"

# 4. An environment for what watches the training; the training gets its own.
"$python" -m venv "$root/boot"
# shellcheck disable=SC2086
three_times "$root/boot/bin/python" -m pip install --quiet --disable-pip-version-check $BOTO

# 5. The training, which goes on by itself after a restart.
cat >"$units/emotion-tfdata.service" <<EOF
[Unit]
Description=Trains $RUN and ends this instance
Wants=network-online.target
After=network-online.target
OnFailure=emotion-tfdata-end.service

[Service]
WorkingDirectory=$root/source
Environment=HOME=$HOME TMPDIR=$TMPDIR PIP_NO_CACHE_DIR=1 AWS_DEFAULT_REGION=$REGION
Environment=PYTHON=$python PYTHONUNBUFFERED=1 WORKER=$WORKER
ExecStart=$root/boot/bin/python -m launch.instance.agent $BUCKET $RUN $root $PREFIX
StandardOutput=append:$log
StandardError=append:$log
# A checkpoint and its upload need some time when the instance is taken away.
KillMode=mixed
TimeoutStopSec=90

[Install]
WantedBy=multi-user.target
EOF
cat >"$units/emotion-tfdata-end.service" <<EOF
[Unit]
Description=Ends this instance after the training's watcher failed

[Service]
Type=oneshot
WorkingDirectory=$first
Environment=HOME=$HOME AWS_DEFAULT_REGION=$REGION
Environment=RUN=$RUN ATTEMPT=$ATTEMPT WORKER=$WORKER SPOT=$SPOT BUCKET=$BUCKET PREFIX=$PREFIX
ExecStart=-$(command -v python3) -m launch.instance.boot failed $log
ExecStart=shutdown -h now
EOF
systemctl daemon-reload
systemctl enable --now --no-block emotion-tfdata.service
