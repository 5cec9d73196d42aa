-- One small command (scripts.SMALL_WRITES) of the process that holds a role. Not refused when memory is full.
-- ARGV: role, epoch, the command and its arguments.
local refused = fence(ARGV[1], ARGV[2])
if refused then return refused end
return redis.call(unpack(ARGV, 3))
