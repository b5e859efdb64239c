#!/usr/bin/env bash
# Collects the vaults and reference returns of a task set with online Sable. The shipped ones were made this way.
#   experiment_scripts/collect.sh lbf_5|connector_10|rware_15|marine_hard|m3 [profile=starter|smoke]
#     [part=train|references] [vaults=DIR] [key=value …]
# part=   train: tasks with vaults; references: held-out tasks with a reference return only; default: both
# vaults= output folder; default: vault_data, or runs/smoke/vaults for profile=smoke
# Other options go to mtmarl.collect. profile=smoke is a quick test: one collection of each kind with a few updates.
# The same command resumes. Finished and shipped vaults are skipped; to collect them again, give an empty folder.
# m3 (m3_easy and m3_mixed) always needs an empty folder: 8m starts from the policy of 3m, which is not shipped.
# Then train with MTMARL_VAULTS=DIR. SMAX needs mtmarl[smax].
# Time, core-hours: lbf_5 3, connector_10 1.5, rware_15 5, marine_hard 1.5. For the published scale (20 M env steps):
# make vaults PROFILE=paper TASKS=rware_15
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
set_name=${1:-} profile=starter part=all vaults=
options=()
for word in "${@:2}"; do
  case $word in
  profile=starter | profile=smoke | part=all | part=train | part=references | vaults=?*) declare "$word" ;;
  profile=* | part=* | vaults=*) echo "error: $word: see $0 --help" >&2 && exit 2 ;;
  *) options+=("$word") ;;
  esac
done
python=${PYTHON:-.venv/bin/python}
case $set_name in
lbf_5) family=lbf ;;
connector_10) family=connector ;;
rware_15) family=rware ;;
marine_hard | m3) family=smax ;;
*) echo "error: '$set_name' is none of lbf_5, connector_10, rware_15, marine_hard, m3; see $0 --help" >&2 && exit 2 ;;
esac
runs=runs/collect/sable/$family
if [ "$profile" = smoke ]; then
  runs=runs/smoke/collect/$set_name vaults=${vaults:-runs/smoke/vaults}
  options=(collect.env_steps=64 collect.num_envs=4 collect.rollout_length=4 collect.evaluations=2
    collect.eval_episodes=2 collect.record_points=2 collect.record_episodes=2 evaluator.final_episodes=4
    "${options[@]}")
fi

first= seen=
collect() { # kind, task, env steps, options; a smoke run makes one of each kind
  if [ "$profile" = smoke ]; then
    case $seen in *" $1 "*) return ;; esac
    seen+=" $1 "
  fi
  first=${first:-$2}
  "$python" -m mtmarl.collect +algo=sable "+tasks=$family/$2" "run_dir=$runs/$2/seed_0" \
    "data.vault_dir=${vaults:-vault_data}" "collect.env_steps=$3" "${common[@]}" "${@:4}" "${options[@]}"
}
# The three kinds. A training task from scratch yields data from random to expert policies.
scratch() { # task, env steps, options
  [ "$part" = references ] || collect scratch "$@"
}
# The network does not depend on map layout or team size, so a policy can start from that of a similar task.
warm() { # task, env steps, parent, options
  [ "$part" = references ] || collect warm "$1" "$2" "init_from=$(parent "$3")" "${@:4}"
}
# Held-out tasks: no data, only the reference return of a policy trained on the task.
reference() { # task, env steps, parent, options
  [ "$part" = train ] || collect reference "$1" "$2" "init_from=$(parent "$3")" collect.record=false "${@:4}"
}
parent() { # in a smoke run only the first one is there
  if [ "$profile" = smoke ] && [ ! -d "$runs/$1" ]; then echo "$runs/$first/seed_0"; else echo "$runs/$1/seed_0"; fi
}

common=()
lbf_5() {
  scratch 8x8-2p-2f-coop 400000
  scratch 10x10-3p-3f 2000000
  scratch 15x15-4p-3f 2000000
  scratch 10x10-2p-3f-l3 600000
  scratch 12x12-4p-4f-coop-l3 2500000 algo.entropy_weight=0.006
  # References explore less.
  reference 10x10-3p-3f-l4 600000 10x10-3p-3f algo.entropy_weight=0.005
  reference 12x12-5p-4f-coop-l3 600000 12x12-4p-4f-coop-l3 algo.entropy_weight=0.005
  reference 15x15-5p-5f-l4 600000 15x15-4p-3f algo.entropy_weight=0.005
  # The hardest two: from the parent that does best on them untrained, for longer, exploring as from scratch.
  reference 15x15-4p-5f 2500000 12x12-4p-4f-coop-l3 algo.entropy_weight=0.01
  reference 15x15-3p-5f 2500000 10x10-3p-3f-l4 algo.entropy_weight=0.01
}

connector_10() {
  common=(algo.network.embed_dim=32 algo.network.heads=2)
  scratch con-5x5x3a 500000
  scratch con-6x6x3a 500000
  scratch con-7x7x5a 800000
  scratch con-6x6x4a 600000
  scratch con-8x8x5a 800000
  scratch con-7x7x4a 600000
  for task in con-9x9x6a con-8x8x6a con-10x10x8a con-9x9x8a; do scratch "$task" 1000000; done
  local less=algo.entropy_weight=0.003
  reference con-5x5x2a 300000 con-5x5x3a $less
  reference con-7x7x3a 300000 con-7x7x4a $less
  reference con-8x8x8a 300000 con-9x9x8a $less
  reference con-10x10x5a 300000 con-9x9x6a $less
  for task in con-10x10x10a con-12x12x10a con-12x12x14a; do reference "$task" 300000 con-10x10x8a $less; done
}

# Rewards are too sparse to learn most tasks from scratch in this many steps, so the others start from the policy of
# tiny-4ag. That policy must keep exploring: if entropy and learning rate decay, its own return is equal (4.0), but the
# policies that start from it stop learning (tiny-2ag: 2.0 deliveries instead of 6.5).
rware_15() {
  common=(algo.network.embed_dim=32 algo.network.heads=2 collect.num_envs=128 collect.eval_episodes=32
    collect.record_episodes=16 algo.final_learning_rate=0.001)
  scratch tiny-4ag 4000000 algo.final_entropy_weight=0.01
  local later=(tiny-4ag algo.final_entropy_weight=0.001 algo.minibatches=4 algo.advantage_floor=0.03)
  for task in tiny-2ag h5-4ag tiny-4ag-easy tiny-3ag h5-2ag small-4ag tiny-5ag wide-3ag m4-4ag s4-3ag s4-5ag wide-5ag \
    small-6ag m4-6ag; do
    warm "$task" 2000000 "${later[@]}"
  done
  for task in tiny-2ag-hard tiny-4ag-hard tiny-6ag small-5ag small-4ag-hard h6-4ag r3h5-4ag medium-4ag medium-6ag \
    large-4ag; do
    reference "$task" 2000000 "${later[@]}"
  done
}

# Per map: 2,048 episodes of the best policy (expert), 2,048 of the policy closest to half its win rate (medium), and
# 2,048 over all of training (replay). Why Sable: on 3m, QMIX (an earlier optimiser setting) won 57% after 2M env steps,
# MAPPO 78% and Sable 86% after 0.6M. On 5m_vs_6m the return of MAPPO stays at 0.62 without a win, that of Sable rises.
smax=(collect.single_policies=true collect.evaluations=32 collect.record_points=16 collect.record_episodes=128)
marine_hard() {
  common=("${smax[@]}")
  scratch 3m 600000
  scratch 5m_vs_6m 4000000
  warm 9m_vs_10m 2000000 5m_vs_6m
}
m3() {
  common=("${smax[@]}")
  for map in 2m_vs_1z 2s_vs_2M 3m 3s_vs_3z; do scratch "$map" 600000; done
  # From scratch it wins 51% at best and 27% after 1M; from the policy of 3m as many after 0.2M.
  warm 8m 2000000 3m
  warm 3s_vs_5z 2000000 3s_vs_3z
  warm 2M8m-t150 2000000 8m
  reference 3s_vs_4z 2000000 3s_vs_3z
  reference 2M8m_vs_3M9m-t180 2000000 2M8m-t150
}

"$set_name"
[ ! -d "$runs" ] || "$python" -m mtmarl.report "$runs"
