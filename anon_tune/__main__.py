"""`python -m anon_tune`."""

from anon_tune.cli import main

if __name__ == "__main__":
    main()
