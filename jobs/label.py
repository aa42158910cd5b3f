"""Label a manifest on a running Ray cluster: `rayvos label` as a job.

    RAY_API_SERVER_ADDRESS=http://HEAD:8265 ray job submit --working-dir . -- \
        python jobs/label.py s3://bucket/clips.parquet -o s3://bucket/run --engine cut

Needs: the cluster's machines hold the packages of requirements.lock; manifest, frames, weights and output lie where
every machine reaches them (object storage, or a shared disk). Ray ships the working directory, less what .gitignore
names. Options: those of `rayvos label` (`python jobs/label.py --help`).

Result: the run folder, as `rayvos label` makes it. The driver's exit code is 0 when all is done, 1 when the job gave
up, 2 for wrong options, 3 when some clips are dead letters; `ray job submit` itself returns 1 for each but 0. A job
that is stopped (SIGTERM, then SIGKILL after RAY_JOB_STOP_WAIT_TIME_S) or loses its machine is submitted again as it
was, and goes on.
"""

import sys

from rayvos.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["label", *sys.argv[1:]]))
