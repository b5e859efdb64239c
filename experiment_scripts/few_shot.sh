#!/usr/bin/env bash
# Few-shot learning: online Sable on two held-out Connector tasks, from a policy of MT Oryx and from scratch.
#   experiment_scripts/few_shot.sh [profile=smoke|cpu|paper] [jobs=K] [key=value …]
# First, with the same profile: training_tasks.sh connector only.training_tasks=10 only.algo=mt_oryx
# Time: smoke 1 run; cpu 12 runs of 3 to 9 minutes on one core; paper not yet measured.
sweep=few_shot
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
exec "${PYTHON:-.venv/bin/python}" -m mtmarl.sweep +sweep=$sweep "$@"
