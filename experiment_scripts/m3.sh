#!/usr/bin/env bash
# M3 versus MADT, MAPPO and CARE: pre-training on a task set, then fine-tuning on its maps or on held-out maps.
#   experiment_scripts/m3.sh pretrain|easy|mixed|connector|held_out [profile=smoke|cpu|paper] [jobs=K] [key=value …]
# The SMAX sets need vaults first: experiment_scripts/collect.sh m3 vaults=DIR, then MTMARL_VAULTS=DIR
# Time (profile=cpu, minutes per run on one core, partly shared): pre-training on m3_easy 1–4, CARE 18–33;
# on connector_10 CARE 17–27; on m3_mixed 44–51; fine-tuning 1–10, on held-out maps 3–18.
# Policies are saved in runs/: run fine-tuning in the same checkout as pre-training.
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
exec "${PYTHON:-.venv/bin/python}" -m mtmarl.sweep +sweep="m3_${1:?pretrain, easy, mixed, connector or held_out}" "${@:2}"
