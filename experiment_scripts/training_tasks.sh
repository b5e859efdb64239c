#!/usr/bin/env bash
# Figures 1 and 4: return on training and held-out tasks over the number of training tasks, one environment.
#   experiment_scripts/training_tasks.sh lbf|connector|rware [profile=smoke|cpu|paper] [jobs=K] [key=value …]
# Time: smoke 1 run, cpu 27 runs (Connector 18) of 2 to 24 minutes on one core,
#   paper 45 (LBF), 90 (Connector), 135 (RWARE) runs.
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
exec "${PYTHON:-.venv/bin/python}" -m mtmarl.sweep +sweep="training_tasks_${1:?lbf, connector or rware}" "${@:2}"
