"""Score masks on a running Ray cluster: `rayvos eval` as a job.

    RAY_API_SERVER_ADDRESS=http://HEAD:8265 ray job submit --working-dir . -- \
        python jobs/evaluate.py davis2017 --gt s3://bucket/truth --pred s3://bucket/run --json s3://bucket/out.json

Needs: the cluster's machines hold the packages of requirements.lock; truth, prediction and output lie where every
machine reaches them (object storage, or a shared disk). Options: those of the command of `rayvos eval` that is named
(`python jobs/evaluate.py davis2017 --help`); without --ray the job's own cluster is taken.

Result: the table in the job's log, and the files that --json and --csv name. Exit codes are those of `rayvos eval`.
"""

import sys

from rayvos.cli.main import main

if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(main(["eval", *words, *([] if "--ray" in words or "--help" in words else ["--ray", "auto"])]))
