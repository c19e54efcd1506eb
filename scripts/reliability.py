#!/usr/bin/env python3
"""Write what the fault plan found as docs/reliability.md.

examples:
  scripts/reliability.py .cache/reliability.jsonl                                print it
  scripts/reliability.py .cache/reliability.jsonl --write docs/reliability.md    write it

`make soak` runs the plan in full and then this.

exit codes: 0 written; 1 there is nothing to write, or a line is not one of the plan's; 2 bad usage
"""
