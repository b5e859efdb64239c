#!/usr/bin/env bash
# Collects the expert and medium vaults of marine_hard with online QMIX:
#   experiment_scripts/collect_smax.sh [vault dir]
# Resumable: run it again after an interruption; what is finished is left alone. Needs mtmarl[smax].
# Per map 2,048 episodes of the best policy (expert), 2,048 of the one nearest half its win rate (medium), and as many
# along training (replay). Each map starts from the policy of the one before: the network knows no team size.
set -euo pipefail
vaults=${1:-vault_data}
python=${PYTHON:-.venv/bin/python}
runs=runs/collect/qmix/smax
collect() { # map, env steps, more options
  "$python" -m mtmarl.collect +algo=qmix "+tasks=smax/$1" "collect.env_steps=$2" "data.vault_dir=$vaults" \
    collect.single_policies=true collect.evaluations=32 collect.record_points=16 collect.record_episodes=128 "${@:3}"
}
collect 3m 2000000
collect 5m_vs_6m 3000000 "init_from=$runs/3m/seed_0" algo.epsilon=0.3
collect 9m_vs_10m 3000000 "init_from=$runs/5m_vs_6m/seed_0" algo.epsilon=0.3
"$python" -m mtmarl.report "$runs" --out "$runs/report"
