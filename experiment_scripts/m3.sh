#!/usr/bin/env bash
# M3 against MADT, MAPPO and CARE: pre-training on a set, then fine-tuning on each of its maps, or on one held out.
#   experiment_scripts/m3.sh pretrain|easy|mixed|connector|held_out [profile=smoke|cpu|paper] [jobs=K] [key=value …]
# The sets of SMAX need vaults first: experiment_scripts/collect.sh m3 vaults=DIR, then MTMARL_VAULTS=DIR
# Time (profile=cpu, one core, some beside other work): pre-training on m3_easy 1–4 minutes a run, CARE 18–33;
# on connector_10 CARE 17–27; on m3_mixed 44–51; fine-tuning 1–10, of held-out maps 3–18.
# Policies stay in runs/: fine-tune where they were pre-trained.
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
exec "${PYTHON:-.venv/bin/python}" -m mtmarl.sweep +sweep="m3_${1:?pretrain, easy, mixed, connector or held_out}" "${@:2}"
