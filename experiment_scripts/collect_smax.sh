#!/usr/bin/env bash
# Collects the vaults of marine_hard, or those of m3_easy and m3_mixed, with online Sable:
#   experiment_scripts/collect_smax.sh [marine_hard|m3 [vault dir]]
# Resumable: run it again after an interruption; what is finished is left alone, what is shipped too. Needs mtmarl[smax].
# m3 into an empty vault dir: 8m starts from the policy of 3m, which is not shipped with its vault. Then train with
# MTMARL_VAULTS=<vault dir>.
# Per map 2,048 episodes of the best policy (expert), 2,048 of the one nearest half its win rate (medium), and as many
# along training (replay). Not QMIX: on 3m it won 57% after 2M env steps (when small gradients moved it less than now),
# MAPPO 78% and Sable 86% after 0.6M. Not MAPPO: on 5m_vs_6m its return stays at 0.62 without a win, where Sable's goes
# on rising.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
maps=${1:-marine_hard} vaults=${2:-vault_data}
python=${PYTHON:-.venv/bin/python}
runs=runs/collect/sable/smax
collect() { # map, env steps, more options
  "$python" -m mtmarl.collect +algo=sable "+tasks=smax/$1" "collect.env_steps=$2" "data.vault_dir=$vaults" \
    collect.single_policies=true collect.evaluations=32 collect.record_points=16 collect.record_episodes=128 "${@:3}"
}
case $maps in
marine_hard)
  collect 3m 600000
  collect 5m_vs_6m 4000000
  collect 9m_vs_10m 2000000 "init_from=$runs/5m_vs_6m/seed_0"
  ;;
m3)
  for map in 2m_vs_1z 2s_vs_2M 3m 3s_vs_3z; do collect "$map" 600000; done
  # From scratch it wins 51% at best and 27% after 1M; from the policy of 3m as many after 0.2M.
  collect 8m 2000000 "init_from=$runs/3m/seed_0"
  collect 3s_vs_5z 2000000 "init_from=$runs/3s_vs_3z/seed_0"
  collect 2M8m-t150 2000000 "init_from=$runs/8m/seed_0"
  # Held out: no vault, only the return that a policy trained on the map reaches.
  collect 3s_vs_4z 2000000 "init_from=$runs/3s_vs_3z/seed_0" collect.record=false
  collect 2M8m_vs_3M9m-t180 2000000 "init_from=$runs/2M8m-t150/seed_0" collect.record=false
  ;;
*)
  echo "$0: $maps is neither marine_hard nor m3" >&2
  exit 1
  ;;
esac
[ ! -d "$runs" ] || "$python" -m mtmarl.report "$runs" --out "$runs/report"
