#!/usr/bin/env bash
# One policy for LBF, Connector and RWARE versus one policy per environment. There are no published results.
#   experiment_scripts/cross_environment.sh [profile=smoke|cpu|paper] [jobs=K] [key=value …]
# Time: smoke 1 run; cpu 12 runs, nine of them shared with table1, three of 50 minutes on one core; paper 36 runs.
sweep=cross_environment
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
exec "${PYTHON:-.venv/bin/python}" -m mtmarl.sweep +sweep=$sweep "$@"
