"""Runs generated programs against tests, in a sandbox that needs no privileges.

    grading process ──exec──▶ template ──fork──▶ program   (standard input → standard output)
                                       └─fork──▶ program ◀──calls, as data──▶ tests

The template (`template.py`) is a clean interpreter with an empty environment that has imported what programs may
import. A program is a fork of it behind a seccomp filter (`seccomp.py`) that leaves it memory, the clock, its own open
files and the end: no file can be opened, no socket, process or thread be made, no signal be sent. So nothing has to be
hidden from it or cleaned up behind it, and it works alike as root in a container and without any privilege in
Kubernetes. Where the kernel allows, the template first gives up its identity, its namespaces and all files besides.

What a program should have printed stays in the grading process. Where tests call the program's functions they run in a
process of their own (`testing.py`) that sees results as data (`exchange.py`), so no object of the program's, nor
anything it does to its interpreter, takes part in the verdict. Tests and programs reach their process as memory files,
never through the template's memory, which all its forks share.

No library does this and installs from an index alone: sandlock wants Linux 6.12, pyseccomp the system's libseccomp,
bubblewrap and nsjail user namespaces, which Kubernetes seldom gives, and WebAssembly another interpreter.
"""
