-- ARGV: stream, own worker id, own instance, most entries to take over, time of the server in ms (0: none), message
-- ids handed out.
-- Takes over pending entries of consumers whose heartbeat has expired or belongs to a later instance of the same
-- worker; a dead consumer with nothing pending is removed. With a time the own entries delivered since then, but not
-- among the ids handed out, are taken too: their reply was lost. Returns {message id, deliveries, losses, fields...}
-- each; of a prompt they are its group's own, since its entry may be a later one.
local stream, worker, instance, room, since = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local key, role = prefix .. stream, READER[stream]
local self = worker .. "/" .. instance
local claimed = {}

local function take(pending, lost)
  local deliveries, losses = pending[4] + 1, 0
  local entry = redis.call("XCLAIM", key, role, self, 0, pending[1])[1]
  if not entry then return end
  -- Entries of completions name their group beside the data; the others are its id.
  local id = role == "verifier" and entry[2][4] or entry[2][2]
  local group = group_key(id)
  if role == "generator" and redis.call("EXISTS", group) == 1 then
    deliveries = redis.call("HINCRBY", group, "attempts", 1)
    losses = redis.call("HINCRBY", group, "losses", lost)
  end
  if lost == 1 then
    note(id, "claimed " .. pending[2] .. " " .. self)
  end
  claimed[#claimed + 1] = {entry[1], deliveries, losses, unpack(entry[2])}
end

local function dead(consumer)
  local owner, mark = string.match(consumer, "^(.*)/([^/]*)$")
  return redis.call("GET", prefix .. "alive:" .. role .. ":" .. owner) ~= mark
end

if since > 0 then
  local clock = redis.call("TIME")
  local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
  local handed = {}
  for at = 6, #ARGV do
    handed[ARGV[at]] = true
  end
  for _, pending in ipairs(redis.call("XPENDING", key, role, "-", "+", 100000, self)) do
    if now - pending[3] >= since and not handed[pending[1]] then take(pending, 0) end
  end
end

for _, info in ipairs(redis.call("XINFO", "CONSUMERS", key, role)) do
  local consumer = info[2]
  if room > #claimed and consumer ~= self and dead(consumer) then
    for _, pending in ipairs(redis.call("XPENDING", key, role, "-", "+", room - #claimed, consumer)) do
      take(pending, 1)
    end
    if #redis.call("XPENDING", key, role, "-", "+", 1, consumer) == 0 then
      redis.call("XGROUP", "DELCONSUMER", key, role, consumer)
    end
  end
end
return claimed
