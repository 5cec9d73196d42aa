-- One small command of the control plane. Unlike the bare command it is not refused when memory is full.
-- ARGV: the command and its arguments.
return redis.call(unpack(ARGV))
