-- One small command of the control plane, of those that change nothing when run again (scripts.SMALL_WRITES). Unlike the
-- bare command it is not refused when memory is full.
-- ARGV: the command and its arguments.
return redis.call(unpack(ARGV))
