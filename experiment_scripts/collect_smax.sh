#!/usr/bin/env bash
# Collects the expert and medium vaults of marine_hard with online Sable:
#   experiment_scripts/collect_smax.sh [vault dir]
# Resumable: run it again after an interruption; what is finished is left alone. Needs mtmarl[smax].
# Per map 2,048 episodes of the best policy (expert), 2,048 of the one nearest half its win rate (medium), and as many
# along training (replay). Not QMIX: on 3m it wins 57% after 2M env steps, MAPPO 78% and Sable 86% after 0.6M. Not MAPPO:
# on 5m_vs_6m its return stays at 0.62 without a win, where Sable's goes on rising.
set -euo pipefail
vaults=${1:-vault_data}
python=${PYTHON:-.venv/bin/python}
runs=runs/collect/sable/smax
collect() { # map, env steps, more options
  "$python" -m mtmarl.collect +algo=sable "+tasks=smax/$1" "collect.env_steps=$2" "data.vault_dir=$vaults" \
    collect.single_policies=true collect.evaluations=32 collect.record_points=16 collect.record_episodes=128 "${@:3}"
}
collect 3m 600000
collect 5m_vs_6m 4000000
collect 9m_vs_10m 2000000 "init_from=$runs/5m_vs_6m/seed_0"
"$python" -m mtmarl.report "$runs" --out "$runs/report"
