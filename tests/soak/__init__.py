"""The soak: a mixed load of minutes through a real sidecar, with faults switched on and off at random by seed.

    make soak MINUTES=10             # or: python -m tests.soak --minutes 10 --seed 7

Processes: the sidecar (`observed` starts it as users do, and counts its tasks and objects on a signal), the stand-in for
Google, two upstreams (`upstream`) that verify each token and answer with the request's identity, and the clients
(`load` runs a `worker` for each, `operations` is what they ask, `http2_operations` in HTTP/2 and gRPC). `setting` is the sidecar's configuration, `faults`
switches faults, `judge` decides whether one of them explains an outcome, `run` plays it all.
Loopback only.
"""
