"""Mine candidates on a running Ray cluster: `rayvos candidates` as a job.

    RAY_API_SERVER_ADDRESS=http://HEAD:8265 ray job submit --working-dir . -- \
        python jobs/candidates.py s3://bucket/clips.parquet -o s3://bucket/candidates

Needs, result, exit codes and resuming: as `jobs/label.py`; the run folder holds `candidates/` in the place of
`labels/`. Options: those of `rayvos candidates` (`python jobs/candidates.py --help`).
"""

import sys

from rayvos.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["candidates", *sys.argv[1:]]))
