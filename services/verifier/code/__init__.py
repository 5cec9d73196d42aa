"""Runs generated programs against tests, in a sandbox that needs no privileges.

    grading process ──exec──▶ template ──fork──▶ program   (standard input → standard output)
                                       └─fork──▶ program ◀──calls, as data──▶ tests

The template (`template.py`) is a clean interpreter with an empty environment that has imported what programs may
import. A program is a fork of it under a seccomp filter (`seccomp.py`) that allows memory, the clock, its open files
and exit: it can open no file, make no socket, process or thread, and send no signal. So nothing has to be hidden from
it or cleaned up after it, and it works alike as root in a container and unprivileged in Kubernetes. Where the kernel
allows, the template also drops privileges, enters new namespaces and applies Landlock (`isolation.py`).

Expected outputs stay in the grading process. Tests that call the program's functions run in a process of their own
(`testing.py`), which gets results as data over pipes (`rpc.py`), so neither objects of the program nor changes to its
interpreter take part in the verdict. Sources of tests and programs are passed as memory files, never through the memory
of the template, which all its forks share.

No library that pip installs alone does this: sandlock needs Linux 6.12, pyseccomp the system's libseccomp, bubblewrap
and nsjail user namespaces, which Kubernetes seldom allows, and WebAssembly another interpreter.
"""
