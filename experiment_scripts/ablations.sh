#!/usr/bin/env bash
# Figure 6, on RWARE: ablations of HL-Gauss, agent masking, agent shuffling, task-balanced batches and agent ids.
#   experiment_scripts/ablations.sh [profile=smoke|cpu|paper] [jobs=K] [key=value …]
# Time: smoke 1 run, cpu 24 runs of 10 to 20 minutes on one core, paper 48 runs.
sweep=ablations
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
exec "${PYTHON:-.venv/bin/python}" -m mtmarl.sweep +sweep=$sweep "$@"
