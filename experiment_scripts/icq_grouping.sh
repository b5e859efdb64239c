#!/usr/bin/env bash
# What MT Oryx normalises its weights over: a task, a position in the batch, nothing. Nothing is published on it.
#   experiment_scripts/icq_grouping.sh [profile=smoke|cpu|paper] [jobs=K] [key=value …]
# Time: smoke 1 run, cpu and paper 9 runs; not yet measured.
sweep=icq_grouping
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
exec "${PYTHON:-.venv/bin/python}" -m mtmarl.sweep +sweep=$sweep "$@"
