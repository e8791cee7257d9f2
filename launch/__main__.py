"""The front door, `genctr` or `python -m launch`: prepare the process, then hand over to the command line."""

import os
import sys


def main() -> int:
    """Run the command line on `sys.argv` and return its exit status."""
    from launch.orphans import die_with_launcher

    die_with_launcher()
    # OpenMP reads these when torch is loaded. Waiting threads that spin make two ranks on two cores up to 20 times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    from launch import cli
    from launch.terminal import show_only_the_visible

    show_only_the_visible()
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
