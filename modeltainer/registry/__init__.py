"""The registry: endpoint files on the shared filesystem, and nothing else (no database, no daemon).

Layout below the registry's root (mode 0700, one per user)::

    launches/<launch_id>/spec.json        login side, once: what to run
    launches/<launch_id>/submission.json  login side: which job it became
    launches/<launch_id>/secret.json      login side, 0600: endpoint key, nonce, secret environment
    launches/<launch_id>/log/             engine.log, agent.log, submitit's files
    endpoints/<job>.<launch_id>.json      agent side: state, address, lease; one writer only
    gateway/                              the gateway's own state and the clients' keys (hashed)

Every file has exactly one writer, which replaces it by rename. A lease is a counter in the content,
and a reader judges it by its own monotonic clock: other hosts' clocks and mtimes are not trusted.
"""
