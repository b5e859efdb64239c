#!/usr/bin/env bash
# Collects the starter vaults and reference returns of lbf_5: `experiment_scripts/collect_lbf.sh [vault dir]`.
# About an hour and a half on two CPU cores. Resumable: run it again after an interruption.
# Training tasks start from scratch, so that their data run from random to expert. Held-out tasks give no data,
# only references; they start from the policy of 10x10-3p-3f.
set -euo pipefail
vaults=${1:-vault_data}
python=${PYTHON:-.venv/bin/python}
collect() { # task, env steps, more options
  "$python" -m mtmarl.collect +algo=sable "+tasks=$1" "collect.env_steps=$2" "data.vault_dir=$vaults" "${@:3}"
}
collect lbf/8x8-2p-2f-coop 400000
collect lbf/10x10-3p-3f 2500000
collect lbf/10x10-2p-3f-l3 1500000
collect lbf/15x15-4p-3f 1500000
collect lbf/12x12-4p-4f-coop-l3 1500000
parent=runs/collect/sable/lbf/10x10-3p-3f/seed_0
for task in 15x15-3p-5f 15x15-4p-5f 10x10-3p-3f-l4 12x12-5p-4f-coop-l3 15x15-5p-5f-l4; do
  collect "lbf/$task" 800000 collect.record=false "init_from=$parent" algo.entropy_weight=0.005
done
