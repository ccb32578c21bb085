"""PromQL: parse, plan, evaluate. Float samples, Prometheus 3 semantics, whole matrices at a time."""
