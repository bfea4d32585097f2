"""The testbed: real servers (Vault, etcd, kube-apiserver, external-secrets, OpenBao) for tests, demo and benchmarks.

`python -m tests.testbed up` starts it by hand; `fixtures.py` provides it to pytest; `testbed.Testbed` is the same as
a context manager. Nothing here imports vaultsync: the controller under test runs as its own process.
"""
