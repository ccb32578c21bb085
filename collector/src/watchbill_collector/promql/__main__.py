"""`python -m watchbill_collector.promql`: the same as `watchbill-collector promql --json-lines`."""

import sys

from watchbill_collector.promql.jsonlines import serve

if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)
