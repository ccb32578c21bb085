"""The collector, and the operator's command beside it."""

from watchbill.grpc_environment import set_grpc_environment

set_grpc_environment()
