#!/usr/bin/env bash
# Collects the starter vaults and the reference returns of lbf_5: `experiment_scripts/collect_lbf.sh [vault dir]`.
# Resumable: run it again after an interruption; what is finished is left alone, what is shipped too: to collect that
# again, give an empty vault dir.
# Training tasks start from scratch, so that their data run from random to expert. Held-out tasks give no data,
# only references; they start from the policy of a neighbour (the network knows no team size), exploring less.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
vaults=${1:-vault_data}
python=${PYTHON:-.venv/bin/python}
runs=runs/collect/sable/lbf
collect() { # task, env steps, more options
  "$python" -m mtmarl.collect +algo=sable "+tasks=lbf/$1" "collect.env_steps=$2" "data.vault_dir=$vaults" "${@:3}"
}
reference() { # task, env steps, parent, entropy weight
  collect "$1" "$2" collect.record=false "init_from=$runs/$3/seed_0" "algo.entropy_weight=$4"
}
collect 8x8-2p-2f-coop 400000
collect 10x10-3p-3f 2000000
collect 15x15-4p-3f 2000000
collect 10x10-2p-3f-l3 600000
collect 12x12-4p-4f-coop-l3 2500000 algo.entropy_weight=0.006
reference 10x10-3p-3f-l4 600000 10x10-3p-3f 0.005
reference 12x12-5p-4f-coop-l3 600000 12x12-4p-4f-coop-l3 0.005
reference 15x15-5p-5f-l4 600000 15x15-4p-3f 0.005
# The hardest two: from the parent that does best on them untrained, for longer, exploring as from scratch.
reference 15x15-4p-5f 2500000 12x12-4p-4f-coop-l3 0.01
reference 15x15-3p-5f 2500000 10x10-3p-3f-l4 0.01
[ ! -d "$runs" ] || "$python" -m mtmarl.report "$runs" --out runs/collect/report
