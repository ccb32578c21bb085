"""`python -m watchbill_agent` is `watchbill-agent`."""

from watchbill_agent.entry import main

raise SystemExit(main())
