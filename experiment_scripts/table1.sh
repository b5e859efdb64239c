#!/usr/bin/env bash
# Table 1: MT Oryx, MT CQL-Sable and MT BC-Sable on the full training sets of RWARE, LBF and Connector.
#   experiment_scripts/table1.sh [profile=smoke|cpu|paper] [jobs=K] [key=value …]
# Time: smoke 2 runs, cpu and paper 27 runs, copied from training_tasks where it has run them.
sweep=table1
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
exec "${PYTHON:-.venv/bin/python}" -m mtmarl.sweep +sweep=$sweep "$@"
