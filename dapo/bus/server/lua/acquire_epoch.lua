-- ARGV: nonce, role, number. Returns the role's new epoch, above the number; the same one when the request is repeated.
local before = reply_to(ARGV[1])
if before then return tonumber(before) end
local epoch = take_over(ARGV[2], tonumber(ARGV[3]))
remember(ARGV[1], string.format("%.0f", epoch))
return epoch
