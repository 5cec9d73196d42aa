-- ARGV: nonce, role. Returns the role's new epoch; the same one when the request is repeated.
local before = reply_to(ARGV[1])
if before then return tonumber(before) end
local epoch = redis.call("INCR", prefix .. "epoch:" .. ARGV[2])
remember(ARGV[1], epoch)
return epoch
