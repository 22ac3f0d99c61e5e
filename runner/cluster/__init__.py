"""A Kubernetes cluster runs the jobs; we describe them and bring the results home."""
