"""`python -m mmkd_core`: the command line where the `mmkd` script is not on the path."""

from mmkd_core.cli import main

if __name__ == "__main__":
    main()
