#!/usr/bin/env bash
# Collects the starter vaults and the reference returns of connector_10:
#   experiment_scripts/collect_connector.sh [vault dir] [train|references]
# Resumable: run it again after an interruption; what is finished is left alone, what is shipped too: to collect that
# again, give an empty vault dir.
# Training tasks start from scratch, so that their data run from random to expert. Held-out tasks give no data,
# only references; they start from the policy of a neighbour (the network knows no team size), exploring less.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
vaults=${1:-vault_data}
part=${2:-all}
python=${PYTHON:-.venv/bin/python}
runs=runs/collect/sable/connector
collect() { # task, env steps, more options
  "$python" -m mtmarl.collect +algo=sable "+tasks=connector/$1" "collect.env_steps=$2" "data.vault_dir=$vaults" \
    algo.network.embed_dim=32 algo.network.heads=2 "${@:3}"
}
reference() { # task, parent
  collect "$1" 300000 collect.record=false "init_from=$runs/$2/seed_0" algo.entropy_weight=0.003
}
if [ "$part" != references ]; then
  collect con-5x5x3a 500000
  collect con-6x6x3a 500000
  collect con-7x7x5a 800000
  collect con-6x6x4a 600000
  collect con-8x8x5a 800000
  collect con-7x7x4a 600000
  collect con-9x9x6a 1000000
  collect con-8x8x6a 1000000
  collect con-10x10x8a 1000000
  collect con-9x9x8a 1000000
fi
if [ "$part" != train ]; then
  reference con-5x5x2a con-5x5x3a
  reference con-7x7x3a con-7x7x4a
  reference con-8x8x8a con-9x9x8a
  reference con-10x10x5a con-9x9x6a
  reference con-10x10x10a con-10x10x8a
  reference con-12x12x10a con-10x10x8a
  reference con-12x12x14a con-10x10x8a
fi
[ ! -d "$runs" ] || "$python" -m mtmarl.report "$runs" --out runs/collect/report
