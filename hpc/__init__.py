"""The cluster: what it has, where a launch goes, how it gets there and where it stands.

Decisions are pure functions (:mod:`~modeltainer.hpc.gres`, :mod:`~modeltainer.hpc.placement`,
:mod:`~modeltainer.hpc.options`, :mod:`~modeltainer.hpc.sbatch`); talking to Slurm is kept in
:mod:`~modeltainer.hpc.commands`, so that every command has a time limit and an error in words.
"""
