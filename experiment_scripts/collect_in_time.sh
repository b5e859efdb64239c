#!/usr/bin/env bash
# Collects many tasks in parallel, with a time limit, on a machine with a temporary disk:
#   MINUTES=9 PARALLEL=4 experiment_scripts/collect_in_time.sh OUT TASK… [-- option=value …]
# At the time limit, all vaults, checkpoints and recordings are packed into OUT/state.tar.part-* (15 MiB each). With
# these parts in OUT, the same command resumes. FROM names another folder to unpack from.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
out=$(realpath -m "$1")
shift
tasks=()
while [ $# -gt 0 ] && [ "$1" != "--" ]; do tasks+=("$1") && shift; done
[ $# -gt 0 ] && shift
python=$(realpath -s "$(command -v "${PYTHON:-.venv/bin/python}")")
package=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH=$package:${PYTHONPATH:-} PYTHONUNBUFFERED=1
# Several processes share one accelerator, so none may preallocate its memory.
export XLA_PYTHON_CLIENT_PREALLOCATE=false

mkdir -p "$out/work"
from=${FROM:-$out}
if compgen -G "$from/state.tar.part-*" >/dev/null; then cat "$from"/state.tar.part-* | tar -x -C "$out/work"; fi
pack() {
  cd "$out/work"
  mkdir -p vaults runs
  tar -c vaults runs | split -b 15m - "$out/state.tar.new-"
  rm -f "$out"/state.tar.part-*
  for part in "$out"/state.tar.new-*; do mv "$part" "${part/new-/part-}"; done
  [ -n "${KEEP_WORK:-}" ] || rm -rf "$out/work"
}
trap pack EXIT

cd "$out/work"
one() {
  "$PYTHON_BIN" -m mtmarl.collect +algo=sable "+tasks=$1" "data.vault_dir=vaults" "${@:2}" >"${1//\//_}.log" 2>&1 ||
    echo "$1: stopped; $(tail -n 1 "${1//\//_}.log")"
}
export -f one
export PYTHON_BIN=$python
printf '%s\n' "${tasks[@]}" |
  timeout --signal=TERM "$(awk "BEGIN {print ${MINUTES:-9} * 60}")" xargs -P "${PARALLEL:-4}" -I{} bash -c 'one "$@"' _ {} "$@" || true
for task in "${tasks[@]}"; do
  if [ -f "vaults/references/$task.json" ]; then echo "$task: finished"; else echo "$task: $(tail -n 1 "${task//\//_}.log" 2>/dev/null)"; fi
done
