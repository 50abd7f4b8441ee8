#!/usr/bin/env bash
# One cell as a SLURM job: on each of its nodes one accelerate launcher, which starts one process for each GPU there.
#
# Edit: the #SBATCH lines (partition, account, time limit, cores and memory of a node) and how the environment is
# activated. slurm_submit.py submits this script for every cell; one by hand, from the project's folder:
#
#     sbatch --nodes=2 --gpus-per-node=8 launch/slurm_job.sh -m excursions pretrain --scale paper
#
# A job that met its time limit goes on from its last saved state when it is submitted again.
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
##SBATCH --partition=...
##SBATCH --account=...
set -euo pipefail
source .venv/bin/activate

if [ "$1" != -m ]; then # a whole command, of a cell that needs one process and no GPU: data, notebooks, dvc
    exec "$@"
fi

hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
export MAIN_HOST=${hosts%%$'\n'*}
export MAIN_PORT=$((20000 + SLURM_JOB_ID % 10000)) # jobs that share a node differ in it
export ALL_GPUS=$((SLURM_NNODES * SLURM_GPUS_ON_NODE))
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then # since SLURM 22.05 srun does not take it over by itself
    export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
fi

# $SLURM_NODEID differs from node to node, so the shell that srun starts there expands it. A node that fails ends all.
srun --kill-on-bad-exit=1 bash -c 'exec accelerate launch --config_file launch/node.yaml \
    --num_machines "$SLURM_NNODES" --machine_rank "$SLURM_NODEID" --num_processes "$ALL_GPUS" \
    --rdzv_backend static --main_process_ip "$MAIN_HOST" --main_process_port "$MAIN_PORT" "$@"' node "$@"
