-- ARGV: archive size, ids of groups whose payloads are gone. Their records (without the completions, which the grades
-- repeat) stay until so many newer ones retired.
for at = 2, #ARGV do
  if redis.call("SREM", prefix .. "garbage", ARGV[at]) == 1 then
    local group = group_key(ARGV[at])
    for index = 0, tonumber(redis.call("HGET", group, "size") or "0") - 1 do
      redis.call("HDEL", group, "completion:" .. index)
    end
    redis.call("RPUSH", prefix .. "archive", ARGV[at])
  end
end
local surplus = redis.call("LLEN", prefix .. "archive") - tonumber(ARGV[1])
for _ = 1, surplus do
  redis.call("UNLINK", group_key(redis.call("LPOP", prefix .. "archive")))
end
return surplus
