"""The operator against a real Kubernetes API server, with a fake kubelet and a fake KubeRay."""
