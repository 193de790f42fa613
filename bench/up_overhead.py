"""What ``mt-submit up`` adds to Slurm and the engine: ``python -m modeltainer.bench.up_overhead``.

On the virtual cluster of the tests (so from a checkout, as root), in interleaved rounds: a plain
sbatch file that starts the same engine from the same image, polled by curl until it answers one
token; and ``mt-submit up --wait``. Wall time in seconds from the command's start to the first token
(plain) or to its return (mt-submit).
"""

from __future__ import annotations

import argparse
import statistics
import time

PLAIN = """#!/bin/bash
#SBATCH --cpus-per-task=1 --mem=1G --time=20 --output=/dev/null
exec srun apptainer exec --containall --no-home --bind /shared/models \\
  /shared/images/llama.cpp-cpu.sif llama-server --model /shared/models/tiny.gguf \\
  --ctx-size 256 --host 0.0.0.0 --port 18080 --threads 1
"""

WAIT = """
job=$(sbatch --parsable --nodelist c1 plain.sbatch)
until curl -sf -o /dev/null -d '{"prompt":"a","max_tokens":1}' http://c1:18080/v1/completions
do sleep 0.05; done
echo "$job"
"""


def main() -> None:
    """Measure, and print both medians and their difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds: int = parser.parse_args().rounds

    from tests.acceptance.site import account
    from tests.cluster.cluster import Cluster

    cluster = Cluster.up("sid", name="bench-up-overhead")
    try:
        alice = account(cluster, "alice", "bench")
        (alice.here(alice.home) / "plain.sbatch").write_text(PLAIN)
        plain, ours = [], []
        for number in range(rounds + 1):
            began = time.perf_counter()
            job = alice.sh(WAIT).stdout.split()[-1]
            plain.append(time.perf_counter() - began)
            alice.sh(f"scancel {job}; while squeue -h -j {job} | grep -q .; do sleep 0.2; done")
            began = time.perf_counter()
            alice.mt("up tiny --nodelist c1 --wait")
            ours.append(time.perf_counter() - began)
            alice.mt("stop tiny")
            print(f"round {number}: plain {plain[-1]:.2f} s, mt-submit {ours[-1]:.2f} s")
    finally:
        cluster.down()
    # The first round fills the page cache.
    middle_plain, middle_ours = statistics.median(plain[1:]), statistics.median(ours[1:])
    print(f"plain sbatch to first token: median {middle_plain:.2f} s")
    print(f"mt-submit up --wait:         median {middle_ours:.2f} s")
    print(f"added:                       {middle_ours - middle_plain:+.2f} s")


if __name__ == "__main__":
    main()
