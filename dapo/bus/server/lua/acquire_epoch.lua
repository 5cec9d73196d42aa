-- ARGV: nonce, role, number. Returns the role's new epoch, above the number; the same one when the request is repeated.
local before = reply_to(ARGV[1])
if before then return tonumber(before) end
local key = prefix .. "epoch:" .. ARGV[2]
local epoch = math.max(tonumber(redis.call("GET", key) or "0"), tonumber(ARGV[3])) + 1
redis.call("SET", key, string.format("%.0f", epoch))
remember(ARGV[1], epoch)
return epoch
