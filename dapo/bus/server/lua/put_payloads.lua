-- ARGV: bytes that a key takes beside its blob, then keys and blobs. Stores them and counts what they take.
local grown = 0
for at = 2, #ARGV, 2 do
  local key, blob = ARGV[at], ARGV[at + 1]
  grown = grown + #blob - redis.call("STRLEN", key)
  if redis.call("EXISTS", key) == 0 then grown = grown + ARGV[1] end
  redis.call("SET", key, blob)
end
count_payloads(grown)
return "written"
