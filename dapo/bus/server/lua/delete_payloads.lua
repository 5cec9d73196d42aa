-- ARGV: bytes that a key takes beside its blob, then keys. Deletes those that exist and counts what they took.
local freed = 0
for at = 2, #ARGV do
  local size = redis.call("STRLEN", ARGV[at])
  if redis.call("UNLINK", ARGV[at]) == 1 then freed = freed + size + ARGV[1] end
end
count_payloads(-freed)
return "written"
