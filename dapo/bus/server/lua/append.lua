-- ARGV: nonce, key of a stream, "=" or "~" (exactly or about), most entries to keep, fields and values.
-- Returns the entry's id; the same one when the request is repeated.
local before = reply_to(ARGV[1])
if before then return before end
local entry = redis.call("XADD", ARGV[2], "MAXLEN", ARGV[3], ARGV[4], "*", unpack(ARGV, 5))
remember(ARGV[1], entry)
return entry
