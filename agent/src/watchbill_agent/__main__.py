"""`python -m watchbill_agent` is `watchbill-agent`."""

from watchbill_agent.cli import main

raise SystemExit(main())
