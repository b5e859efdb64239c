#!/usr/bin/env bash
# Collects the starter vaults and the reference returns of rware_15:
#   experiment_scripts/collect_rware.sh [vault dir] [train|references]
# Resumable: run it again after an interruption; what is finished is left alone, what is shipped too: to collect that
# again, give an empty vault dir.
# Rewards are too sparse to learn most tasks from scratch in this many steps: tiny-4ag comes first, the others start
# from its policy (the network knows neither layout nor team size). That policy must go on exploring: with entropy and
# learning rate lowered over training it delivers as much itself (4.0), but those that start from it learn no more
# (tiny-2ag: 2.0 deliveries instead of 6.5).
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
vaults=${1:-vault_data}
part=${2:-all}
python=${PYTHON:-.venv/bin/python}
runs=runs/collect/sable/rware
collect() { # task, env steps, more options
  "$python" -m mtmarl.collect +algo=sable "+tasks=rware/$1" "collect.env_steps=$2" "data.vault_dir=$vaults" \
    algo.network.embed_dim=32 algo.network.heads=2 collect.num_envs=128 collect.eval_episodes=32 \
    collect.record_episodes=16 algo.final_learning_rate=0.001 "${@:3}"
}
warm() { # task, more options
  collect "$1" 2000000 "init_from=$runs/tiny-4ag/seed_0" algo.final_entropy_weight=0.001 algo.minibatches=4 \
    algo.advantage_floor=0.03 "${@:2}"
}
if [ "$part" != references ]; then
  collect tiny-4ag 4000000 algo.final_entropy_weight=0.01
  for task in tiny-2ag h5-4ag tiny-4ag-easy tiny-3ag h5-2ag small-4ag tiny-5ag wide-3ag m4-4ag s4-3ag \
    s4-5ag wide-5ag small-6ag m4-6ag; do
    warm "$task"
  done
fi
if [ "$part" != train ]; then
  for task in tiny-2ag-hard tiny-4ag-hard tiny-6ag small-5ag small-4ag-hard h6-4ag r3h5-4ag medium-4ag medium-6ag large-4ag; do
    warm "$task" collect.record=false
  done
fi
[ ! -d "$runs" ] || "$python" -m mtmarl.report "$runs" --out runs/collect/report
