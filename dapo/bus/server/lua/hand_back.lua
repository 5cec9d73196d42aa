-- ARGV: stream, own worker id, own instance, 1 where the engine was lost that ran them (else 0), message ids (none: all
-- that are pending with this consumer, which is then removed). Puts the entries on the stream anew, for whoever reads
-- next; one that is not in the hands of this consumer is left alone.
local stream, self = ARGV[1], ARGV[2] .. "/" .. ARGV[3]
local key, role = prefix .. stream, READER[stream]
local leaves = #ARGV == 4

local function hand_back(message)
  local entry = redis.call("XRANGE", key, message, message)[1]
  if not entry then return end
  local fields = entry[2]
  if role ~= "generator" then
    redis.call("XADD", key, "*", unpack(fields))
    return
  end
  local group = group_key(fields[2])
  local known = redis.call("HMGET", group, "state", "entry")
  if known[1] == "issued" and known[2] == message then
    redis.call("HINCRBY", group, "losses", ARGV[4])
    note(fields[2], "handed_back " .. self .. " " .. ARGV[4])
    put_prompt(fields[2])
  end
end

local messages = {unpack(ARGV, 5)}
if leaves then
  for _, pending in ipairs(redis.call("XPENDING", key, role, "-", "+", 100000, self)) do
    messages[#messages + 1] = pending[1]
  end
end
for _, message in ipairs(messages) do
  if #redis.call("XPENDING", key, role, message, message, 1, self) == 1 then
    hand_back(message)
    acknowledge(stream, message)
  end
end
if leaves then
  redis.call("XGROUP", "DELCONSUMER", key, role, self)
end
