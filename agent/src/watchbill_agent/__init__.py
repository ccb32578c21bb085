"""The agent: samples this host and streams what it sees to the collector."""

from watchbill.grpc_environment import set_grpc_environment

set_grpc_environment()
