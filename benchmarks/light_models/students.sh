#!/bin/sh
# Make the light networks that measure.py compares, from the model of six labelled scans that lies in benchmarks/models;
# the held-out scans stay out, as in the model's own training. About an hour on one core. A stopped run goes on.
#
#     MEDSEG_DATA=FOLDER sh benchmarks/light_models/students.sh RUNS
set -e
here=$(dirname "$0")
source=$here/../models/hippocampus_6_semi
data=${MEDSEG_DATA:?set MEDSEG_DATA to the folder that holds hippocampus/}/hippocampus
runs=${1:?give a folder for the run folders}
medseg distill "$source" --data "$data" --width 0.5 --coarse --set training.steps=1500 --output "$runs/coarse"
medseg distill "$source" --data "$data" --width 0.5 --set training.steps=1500 --output "$runs/half"
medseg distill "$source" --data "$data" --width 0.25 --set training.steps=1500 --output "$runs/quarter"
medseg prune "$source" --data "$data" --keep 0.7 --output "$runs/pruned"
