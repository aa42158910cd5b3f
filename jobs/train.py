"""Train a network on a running Ray cluster: `rayvos train` as a job.

    RAY_API_SERVER_ADDRESS=http://HEAD:8265 ray job submit --working-dir . -- \
        python jobs/train.py box2seg --data s3://bucket/clips.parquet -o s3://bucket/training

Needs: the cluster's machines hold the packages of requirements.lock; data, weights and output lie where every machine
reaches them (object storage, or a shared disk). Options: those of `rayvos train` (`python jobs/train.py --help`); one
worker per GPU, or one on a cluster without, if --workers does not say otherwise. --sample-actors N: machines of CPUs
make the samples, where the GPUs' machines have too few (cluster/README.md says how many).

Result: the run's folder, with weights.safetensors, metrics.parquet and TensorBoard's event files. Exit codes are those
of `rayvos train`. A job that is stopped or loses its machine is submitted again as it was, and goes on exactly there.
"""

import sys

from rayvos.cli.main import main

if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(main(["train", *words, *([] if "--address" in words or "--help" in words else ["--address", "auto"])]))
