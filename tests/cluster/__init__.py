"""A whole Slurm cluster on one machine: real Slurm, munge, sshd and Apptainer in namespaces."""
