"""The messages of protocol version 1; generated from the .proto file beside this."""
