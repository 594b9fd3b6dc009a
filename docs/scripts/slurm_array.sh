#!/bin/bash
# One slide a task: sbatch --array=0-99 slurm_array.sh SLIDES MODEL OUT [options of hisdiff predict]
# SLIDES is a text file with one path a line. A task that was stopped is submitted again as it is and goes on.
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --output=hisdiff-%A_%a.log
set -euo pipefail
slides=$1 model=$2 out=$3
shift 3
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
slide=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" "$slides")
if [[ -z $slide ]]; then
    echo "task $SLURM_ARRAY_TASK_ID: $slides has no line $((SLURM_ARRAY_TASK_ID + 1))" >&2
    exit 2
fi
mkdir -p "$out/reports"
name=$(basename "$slide")
hisdiff predict "$slide" --model "$model" --out "$out" "$@" --json > "$out/reports/${name%%.*}.json"
