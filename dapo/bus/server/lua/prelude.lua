-- Shared by every script. KEYS[1] is the run's key prefix: it names the slot, and all other keys derive from it. Before the
-- arguments of the script itself ARGV has the role and epoch for which the caller acts (connection.Term; "" and 0: none).
-- ALLOWED, IS_OPEN, IS_DISCARDED, RUN_COMPLETE, RUNS, AGENTS and READER stand above (see scripts.py).
local prefix = KEYS[1]

local function group_key(id)
  return prefix .. "g:" .. id
end

-- An error reply when `epoch` is not the newest of `role`; nil otherwise.
local function fence(role, epoch)
  local newest = redis.call("GET", prefix .. "epoch:" .. role)
  if newest ~= epoch then
    return redis.error_reply("FENCED " .. role .. " epoch " .. epoch .. ", newest " .. (newest or "none"))
  end
end

-- Gives a role to a new holder: returns its epoch, above `least` and all before. Those of all but the learner, whose
-- epochs stand in versions and file names, are also not below this server's time in ms: where what it knew of a run is
-- gone, they do not begin again, and nobody of before is taken for a new holder.
local function take_over(role, least)
  local key = prefix .. "epoch:" .. role
  local epoch = math.max(tonumber(redis.call("GET", key) or "0"), least) + 1
  if role ~= "learner" then
    local now = redis.call("TIME")
    epoch = math.max(epoch, 1000 * tonumber(now[1]) + math.floor(tonumber(now[2]) / 1000))
  end
  redis.call("SET", key, string.format("%.0f", epoch))
  return epoch
end

local refused_term = ARGV[1] ~= "" and fence(ARGV[1], ARGV[2])
if refused_term then return refused_term end
table.remove(ARGV, 1)
table.remove(ARGV, 1)

-- What is known of an agent, and the role of one worker that was given to it.
local function agent_key(id)
  return AGENTS .. ":" .. id
end

local function placed(worker)
  return "worker:" .. worker
end

-- Where a worker of this run is, as a table of agent, number and role; nil where it is given to nobody.
local function placement_of(worker)
  local stored = redis.call("HGET", prefix .. "placements", worker)
  return stored and cjson.decode(stored)
end

-- A request that cannot be told from its effect carries a nonce, and its reply is remembered for ten minutes: longer than
-- a connection's tries at it take. `reply_to` gives the reply, or false for a request that was not carried out.
local function reply_to(nonce)
  return redis.call("GET", prefix .. "reply:" .. nonce)
end

local function remember(nonce, reply)
  redis.call("SET", prefix .. "reply:" .. nonce, reply, "PX", 600000)
end

local function acknowledge(stream, message_id)
  redis.call("XACK", prefix .. stream, READER[stream], message_id)
  redis.call("XDEL", prefix .. stream, message_id)
end

-- A group's trail tells what became of it and when, by this server's clock: a line "<ms> <what> <further words>" for each
-- mark. Where it grows beyond 4 KB, the first line and the newest ones stay, and those left out are counted.
local function mark_of(what)
  local now = redis.call("TIME")
  return string.format("%s%03d %s\n", now[1], math.floor(now[2] / 1000), what)
end

local function trail_with(group, what)
  local trail = (redis.call("HGET", group, "trail") or "") .. mark_of(what)
  if #trail > 4096 then
    trail = string.gsub(trail, "^([^\n]*\n)[^\n]*\n", "%1", 1)
    redis.call("HINCRBY", group, "marks_lost", 1)
  end
  return trail
end

-- Adds a mark to the trail of a group that there is.
local function note(id, what)
  local group = group_key(id)
  if redis.call("EXISTS", group) == 1 then
    redis.call("HSET", group, "trail", trail_with(group, what))
  end
end

-- Moves the count of the bytes that the run's payloads take, on the server that holds them. Zero is no key.
local function count_payloads(change)
  local key = prefix .. "payload_bytes"
  if change ~= 0 and redis.call("INCRBY", key, string.format("%.0f", change)) == 0 then
    redis.call("UNLINK", key)
  end
end

-- Puts the prompt of an issued group on its stream for one more delivery. The entry tells its number, as payload keys and
-- request ids are made of it, and how many deliveries in a row were lost without a response.
local function put_prompt(id)
  local group = group_key(id)
  local delivery = redis.call("HINCRBY", group, "attempts", 1)
  local known = redis.call("HMGET", group, "stream", "losses")
  local entry = redis.call("XADD", prefix .. known[1], "*", "data", id, "delivery", delivery, "losses", known[2] or 0)
  redis.call("HSET", group, "entry", entry)
end

-- Moves a group and the counts together. A group that leaves `issued` takes its prompt's entry with it; one that is
-- discarded is marked for the sweep of its payloads. Callers check ALLOWED before they write anything.
local function move(id, from, to, reason)
  assert(ALLOWED[from .. ">" .. to], "ledger move refused")
  local group = group_key(id)
  redis.call("HSET", group, "state", to, "reason", reason, "trail", trail_with(group, to))
  redis.call("HINCRBY", prefix .. "ledger", from, -1)
  redis.call("HINCRBY", prefix .. "ledger", to, 1)
  if from == "issued" then
    acknowledge(unpack(redis.call("HMGET", group, "stream", "entry")))
  end
  if not IS_OPEN[to] then
    redis.call("ZREM", prefix .. "open", id)
  end
  if IS_DISCARDED[to] then
    redis.call("SADD", prefix .. "garbage", id)
  end
end
