-- Undo an admission whose caller was gone before it could hear of it: nothing went upstream. The mark that is
-- left behind stops the admission when it arrives after this.

local attempt_id = text()
local attempt = remembered(attempt_id)
if attempt and attempt.state ~= 'open' then
  return {'OK'}
end
if attempt then
  for _, hold in ipairs(attempt.holds) do
    local c = counter(hold[1])
    c.reserved = c.reserved - attempt.reserved
    save_counter(c)
  end
  release_rates(attempt.takes, 0, 0)
  local run = load_run(attempt.run)
  if run then
    redis.call('HSET', key('run', run.id), 'open', int(run.open - 1), 'reserved', int(run.reserved - attempt.reserved))
    if attempt.takes.landed and run.landed == attempt.ordinal then
      redis.call('HDEL', key('run', run.id), 'landed', 'ending')
    end
    schedule_run(run, run.last_at + run.idle_ttl_ms)
  end
  redis.call('ZREM', LEASES_KEY, attempt_id)
end
local k = key('attempt', attempt_id)
redis.call('DEL', k)
redis.call('HSET', k, 'state', 'void')
redis.call('PEXPIRE', k, int(10 * MINUTE_MS))
return {'OK'}
