#!/usr/bin/env bash
# BC-t, UPDeT-m, ODIS and HiSSD versus MT BC-Sable and MT Oryx, with the same data and numbers of updates.
#   experiment_scripts/skills.sh smax|jumanji [profile=smoke|cpu|paper] [jobs=K] [key=value …]
# Time (cpu): smax 42 runs of 3 to 59 minutes, jumanji 36 of 5 to 22, of HiSSD 40 to 77. For jumanji,
# results=results/table1/facts.jsonl takes over the runs of the sequence models.
# SMAX needs mtmarl[smax]; its vaults come from collect.sh marine_hard.
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
exec "${PYTHON:-.venv/bin/python}" -m mtmarl.sweep +sweep="skills_${1:?smax or jumanji}" "${@:2}"
