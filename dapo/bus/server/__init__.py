"""The Redis or Valkey server behind the bus: connections, Lua scripts, and a Valkey of our own."""
