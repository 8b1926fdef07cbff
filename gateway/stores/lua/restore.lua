-- Reserve again what an open attempt holds, after a database that knew of it was lost. Nothing is checked: it was
-- admitted, and the call is under way. {'OK', it was not known}

local attempt_id, run_id, ordinal, reserved = text(), text(), number(), number()
local lease_ms, orphan, held, limited = number(), text(), number(), number()
local k = key('attempt', attempt_id)
if redis.call('EXISTS', k) == 1 then
  return {'OK', ''}
end
local holds, limits = {}, {}
for i = 1, held do
  holds[i] = {text(), number()}
end
for i = 1, limited do
  limits[i] = {text(), number()}
end

redis.call('HSET', k, 'state', 'open', 'run', run_id, 'reserved', int(reserved), 'cost', '0', 'tokens', '0',
  'ended_at', '0', 'ordinal', int(ordinal), 'lease_ms', int(lease_ms), 'orphan', orphan,
  'holds', cmsgpack.pack(holds),
  'takes', cmsgpack.pack({limits = limits, token_buckets = {}, tokens = 0, in_flight = {}}))
redis.call('PEXPIRE', k, int(lease_ms + 2 * DAY_MS))
redis.call('ZADD', LEASES_KEY, int(now + lease_ms), attempt_id)
for _, hold in ipairs(holds) do
  local c = counter(hold[1])
  c.reserved = c.reserved + reserved
  c.expires_at = math.max(c.expires_at, hold[2])
  save_counter(c)
end
local run = load_run(run_id)
if run then
  redis.call('HSET', key('run', run_id), 'steps', int(math.max(run.steps, ordinal)), 'open', int(run.open + 1),
    'reserved', int(run.reserved + reserved), 'seen', '1', 'last_at', int(now))
  schedule_run(run, now + run.idle_ttl_ms)
end
return {'OK', '1'}
