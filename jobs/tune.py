"""Sweep on a running Ray cluster: `rayvos tune` as a job.

    RAY_API_SERVER_ADDRESS=http://HEAD:8265 ray job submit --working-dir . -- \
        python jobs/tune.py points --data s3://bucket/clips.parquet --gpus 1 -o s3://bucket/points

Needs: the cluster's machines hold the packages of requirements.lock; data, weights and output lie where every machine
reaches them (object storage, or a shared disk). Options: those of `rayvos tune` (`python jobs/tune.py --help`).

Result: the sweep's folder, with report.html, results.parquet and best.yaml. Exit codes are those of `rayvos tune`. A
job that is stopped or loses its machine is submitted again as it was: finished trials stay, the others go on.
"""

import sys

from rayvos.cli.main import main

if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(main(["tune", *words, *([] if "--address" in words or "--help" in words else ["--address", "auto"])]))
