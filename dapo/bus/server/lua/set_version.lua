-- ARGV: epoch, version.
local refused = fence("learner", ARGV[1])
if refused then return refused end
redis.call("SET", prefix .. "version", ARGV[2])
return "written"
