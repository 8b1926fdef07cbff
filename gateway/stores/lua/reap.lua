-- `EmbeddedStore.reap`, at most `batch` attempts and then at most `batch` runs: {'OK', reservations ended, more}

local batch = number()
local expired = redis.call('ZRANGEBYSCORE', LEASES_KEY, '-inf', '(' .. int(now), 'LIMIT', 0, batch)
local reaped = 0
for _, attempt_id in ipairs(expired) do
  local attempt = remembered(attempt_id)
  if not attempt or attempt.state ~= 'open' then
    redis.call('ZREM', LEASES_KEY, attempt_id)
  else
    settle({
      attempt_id = attempt_id, run_id = attempt.run, cost = attempt.reserved, tokens = 0, provisional = true,
      succeeded = false, completes = false, tool_calls = 0, links = {}, head = '', retry_key = '',
      index_ttl_ms = 0, holds = {}, adopt = false, ends_as = '', progress = '', waited_ms = 0,
    }, function(a)
      local fields = {'orphan', a.orphan, 'ordinal', int(a.ordinal), 'cost', int(a.reserved), 'at', int(now)}
      for _, hold in ipairs(a.holds) do
        fields[#fields + 1] = hold[1]
        fields[#fields + 1] = int(hold[2])
      end
      redis.call('XADD', EVENTS_KEY, '*', unpack(fields))
    end)
    reaped = reaped + 1
  end
end
if #expired == batch then
  return {'OK', int(reaped), '1'}
end

local due = redis.call('ZRANGEBYSCORE', LIVE_KEY, '-inf', '(' .. int(now), 'LIMIT', 0, batch)
for _, run_id in ipairs(due) do
  local run = load_run(run_id)
  if not run then
    redis.call('ZREM', LIVE_KEY, run_id)
  elseif run.open > 0 then
    schedule_run(run, now + run.idle_ttl_ms)
  elseif not run.seen then
    redis.call('ZREM', LIVE_KEY, run_id)
    redis.call('DEL', key('run', run_id))
  elseif run.status == 'running' then
    redis.call('XADD', EVENTS_KEY, '*', 'abandoned', run_id, 'at', int(now))
    redis.call('HSET', key('run', run_id), 'status', 'abandoned')
    schedule_run(run, run.last_at + run.idle_ttl_ms + DAY_MS)
  elseif now - run.last_at > run.idle_ttl_ms + DAY_MS then
    redis.call('ZREM', LIVE_KEY, run_id)
    redis.call('DEL', key('run', run_id))
  else
    schedule_run(run, run.last_at + run.idle_ttl_ms + DAY_MS)
  end
end
return {'OK', int(reaped), bit(#due == batch)}
