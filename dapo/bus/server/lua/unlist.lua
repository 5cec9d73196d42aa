-- Takes a run out of the index (keys.RUNS) of which nobody is the leader, and nobody is to be.
-- ARGV: id of the run.
if redis.call("HGET", prefix .. "run", "desired") ~= "running" and redis.call("EXISTS", prefix .. "lease") == 0 then
  redis.call("HDEL", RUNS, ARGV[1])
end
