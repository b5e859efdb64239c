#!/usr/bin/env bash
# Normalisation of the weights in MT Oryx: per task, per batch position, or none. There are no published results.
#   experiment_scripts/icq_grouping.sh [profile=smoke|cpu|paper] [jobs=K] [key=value …]
# Time: smoke 1 run, cpu and paper 9 runs; not yet measured.
sweep=icq_grouping
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
exec "${PYTHON:-.venv/bin/python}" -m mtmarl.sweep +sweep=$sweep "$@"
