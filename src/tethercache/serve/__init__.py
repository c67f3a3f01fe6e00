"""The server: jobs, live sessions, the studio; docs/serve.md says what it answers.

    HTTP process                                       worker process
    security ─> app, videos, content, ... ─> desk      worker ─> render
                          └─> workshop  <── messages ──┘

`desk` keeps every video and its place in the queue on disk. `workshop` starts the one process that
holds the model (`worker`), gives it videos, and writes down what it says. The HTTP process computes
nothing, so it answers at once, whatever is made meanwhile.
"""
