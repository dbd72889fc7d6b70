# shellcheck shell=bash
# Sourced, not run: `make_venv DIR EXTRAS` makes DIR or reuses it, with this project and EXTRAS at
# the versions of launch/constraints.txt. Run from the project's top folder.

fail() {
  printf '%s\n' "$*" >&2
  exit 1
}

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.12 python3.11 python3.10 python3; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' \
      2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  fail "Python 3.10, 3.11 or 3.12 is needed, found: $(python3 --version 2>/dev/null || echo none)." \
    "Install one (Debian, Ubuntu: apt-get install python3 python3-venv), or name it: PYTHON=/path $0"
}

make_venv() {
  local dir=$1 extras=$2 python wanted installed="" extra log
  python=$(find_python) || exit 1
  # What the environment depends on. The stamp is written last, so half an installation is redone;
  # its second line is the extras, to which others are added and never taken away.
  wanted="$("$python" --version) $(cat setup.cfg launch/constraints.txt | cksum)"
  if [ "$(head -n 1 "$dir/.installed" 2>/dev/null)" = "$wanted" ]; then
    installed=$(tail -n 1 "$dir/.installed")
  fi
  for extra in ${extras//,/ }; do
    case ",$installed," in *",$extra,"*) extras=${extras/$extra/} ;; esac
  done
  if [ -z "${extras//,/}" ]; then
    echo "$dir is up to date."
  else
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
      fail "Python's venv module is missing. Install it: apt-get install python3-venv"
    echo "Installing into $dir (about 3.4 GB, a few minutes the first time) ..."
    rm -f "$dir/.installed"
    extras=$(echo "$installed,$2" | tr -s , '\n' | sort -u | grep . | paste -sd ,)
    log=$(mktemp)
    if ! { "$python" -m venv "$dir" &&
      "$dir/bin/python" -m pip install --quiet --disable-pip-version-check \
        --constraint launch/constraints.txt --editable ".[$extras]"; } >"$log" 2>&1; then
      grep -v '^WARNING' "$log" | tail -n 15 >&2
      fail "The installation failed; the lines above are pip's. The whole log: $log"
    fi
    rm -f "$log"
    printf '%s\n%s\n' "$wanted" "$extras" >"$dir/.installed"
  fi
  check_system_libraries "$dir"
}

check_system_libraries() {
  local error
  error=$("$1/bin/python" -c 'import importlib.util
if importlib.util.find_spec("cv2"): import cv2' 2>&1 >/dev/null) && return
  fail "A system library is missing (${error##*ImportError: })." \
    "Install it: apt-get install libgl1 libglib2.0-0"
}
